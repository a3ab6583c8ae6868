//! llama.cpp: models inside this process.

pub(crate) mod sampler;
pub(crate) mod stop;
pub(crate) mod threads;
