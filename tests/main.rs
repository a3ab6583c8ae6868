//! The project's tests that look at it from outside, one binary.

mod bad_input;
