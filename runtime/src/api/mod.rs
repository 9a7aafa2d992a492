//! What programs see: scopes, references, slots, handles, roots, strings, arrays, collections.

mod array;
mod cx;
mod handle;
mod item;
mod map;
pub(crate) mod queue;
mod reference;
pub(crate) mod root;
mod shared;
mod string;
mod vec;
mod weak;

pub use array::{Array, Element};
pub use cx::{Cx, P};
pub use handle::Handle;
pub use map::GcMap;
pub use queue::Queue;
pub use reference::{Gc, Slot};
pub use root::Root;
pub use shared::{Field, FieldDesc, RefMap, Shared, Target, TypeCell, Types, mix_keys};
pub use string::GcStr;
pub use vec::GcVec;
pub use weak::Weak;

pub(crate) use array::Elements;
pub(crate) use cx::Inside;
pub(crate) use shared::{Entry, register};
