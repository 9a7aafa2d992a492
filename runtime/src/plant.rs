//! Faults that are built in on purpose (feature `planted`): each breaks one "first this, then that", and a test must see it.
//!
//! `planted!(Name)` stands where the order is kept; one fault at a time is chosen, by its name, for the whole process.

/// Is this fault built in and chosen? Always false in ordinary builds.
#[macro_export]
#[doc(hidden)]
macro_rules! planted {
    ($plant:ident) => {{
        #[cfg(feature = "planted")]
        {
            $crate::plant::is_planted($crate::plant::Plant::$plant)
        }
        #[cfg(not(feature = "planted"))]
        {
            false
        }
    }};
}

#[cfg(feature = "planted")]
pub use chosen::{PLANTS, Plant, is_planted, plant, plant_nothing};

#[cfg(feature = "planted")]
mod chosen {
    use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

    macro_rules! plants {
        ($($(#[$doc:meta])* $plant:ident = $name:literal,)*) => {
            /// Faults that a test must see.
            #[derive(Clone, Copy, Debug, PartialEq, Eq)]
            #[repr(u8)]
            pub enum Plant {
                /// None is chosen.
                Nothing,
                $($(#[$doc])* $plant,)*
            }

            /// Every fault, by the name that a command takes.
            pub const PLANTS: &[(&str, Plant)] = &[$(($name, Plant::$plant)),*];
        };
    }

    plants! {
        /// A grey object is marked and pushed without being on record.
        PushNotRecorded = "push-not-recorded",
        /// The intent to claim pages is cleared before the pages bear a name.
        IntentClearedEarly = "intent-cleared-early",
        /// A chunk is called ready before its pages are free by their bits.
        ReadyBeforeBits = "ready-before-bits",
        /// A step's effects are applied before its commit.
        EffectBeforeCommit = "effect-before-commit",
        /// A task record is reserved in nobody's name.
        ReservedByNobody = "reserved-by-nobody",
        /// A work buffer leaves the P's record before it is published.
        BufferNotRecorded = "buffer-not-recorded",
        /// A root job is called done before its roots are marked.
        JobDoneEarly = "job-done-early",
        /// A lease is called live before its life word speaks for it.
        LiveBeforeArmed = "live-before-armed",
        /// The write barrier does not shade.
        BarrierMissed = "barrier-missed",
    }

    static CHOSEN: AtomicU8 = AtomicU8::new(0);

    /// Is it the chosen one?
    pub fn is_planted(plant: Plant) -> bool {
        CHOSEN.load(Relaxed) == plant as u8
    }

    /// Chooses a fault for this process, by its name. False when there is none of that name.
    pub fn plant(name: &str) -> bool {
        let found = PLANTS.iter().find(|(n, _)| *n == name);
        if let Some((_, plant)) = found {
            CHOSEN.store(*plant as u8, Relaxed);
        }
        found.is_some()
    }

    /// Chooses none.
    pub fn plant_nothing() {
        CHOSEN.store(Plant::Nothing as u8, Relaxed);
    }
}
