//! llama.cpp: models inside this process.

pub(crate) mod sampler;
pub(crate) mod stop;
pub(crate) mod template;
pub(crate) mod threads;
pub(crate) mod toolcall;
