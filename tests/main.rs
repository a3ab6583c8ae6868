//! The one test binary; a module per subject.

mod bad_input;
mod layers;
mod policies;
