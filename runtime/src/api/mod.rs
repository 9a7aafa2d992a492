//! What programs see: scopes, references, slots, handles, roots, strings, arrays.

mod array;
mod cx;
mod handle;
mod reference;
pub(crate) mod root;
mod shared;
mod string;

pub use array::{Array, Element};
pub use cx::{Cx, P};
pub use handle::Handle;
pub use reference::{Gc, Slot};
pub use root::Root;
pub use shared::{Field, FieldDesc, RefMap, Shared, Target, TypeCell, mix_keys};
pub use string::GcStr;

pub(crate) use cx::Inside;
pub(crate) use shared::{Entry, register};
