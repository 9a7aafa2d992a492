//! Shapes: what all objects of a span have in common, as every process reads it.
//!
//! An entry is a function of its key (the hash of class, scan kind, stride and map): claimed by one compare-exchange, and written
//! again by everybody who asks for the same key before it is `ready`. A death in between leaves nothing to repair.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

use shm_layout::{
    size_class,
    tables::{MAP_WORDS, SHAPES, ShapeRecord},
};

use crate::{Error, error::Result, names, segment::Segment};

/// Contents of a shape.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Shape {
    /// Size class, or [`Shape::LARGE`].
    pub class: u32,
    /// One of `shm_layout::tables::scan`.
    pub scan: u32,
    /// Bytes of an array element; 0 otherwise.
    pub stride: u32,
    /// Reference map.
    pub map: [u64; MAP_WORDS],
}

impl Shape {
    /// Class of objects with a span of their own.
    pub const LARGE: u32 = u32::MAX;

    fn key(&self) -> u64 {
        let mut bytes = Vec::with_capacity(12 + MAP_WORDS * 8);
        for v in [self.class, self.scan, self.stride] {
            bytes.extend(v.to_le_bytes());
        }
        for w in self.map {
            bytes.extend(w.to_le_bytes());
        }
        names::hash(&bytes)
    }
}

/// Index of the shape in the segment's table.
pub(crate) fn intern(segment: &Segment, shape: &Shape) -> Result<u16> {
    let key = shape.key();
    for i in 0..SHAPES {
        let record = &segment.shapes[i];
        let seen = match record.key.compare_exchange(0, key, AcqRel, Acquire) {
            Ok(_) => key,
            Err(seen) => seen,
        };
        if seen == key {
            complete(record, shape);
            return Ok(i as u16);
        }
    }
    Err(Error::TableFull {
        table: "shapes",
        capacity: SHAPES,
    })
}

fn complete(record: &ShapeRecord, shape: &Shape) {
    if record.ready.load(Acquire) == 1 {
        return;
    }
    let bytes = if shape.class == Shape::LARGE {
        0
    } else {
        size_class::class_bytes(shape.class as usize) as u32
    };
    record.class.store(shape.class, Relaxed);
    record.scan.store(shape.scan, Relaxed);
    record.stride.store(shape.stride, Relaxed);
    record.bytes.store(bytes, Relaxed);
    for (word, bits) in record.map.iter().zip(shape.map) {
        word.store(bits, Relaxed);
    }
    // Release: pairs with the Acquire above and in the mark loop.
    record.ready.store(1, Release);
}
