//! llama.cpp: models inside this process.
