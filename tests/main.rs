//! The one test binary.

mod layers;
