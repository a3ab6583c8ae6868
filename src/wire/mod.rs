//! The bytes of each dialect, both ways. Pure.
