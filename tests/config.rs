//! Configurations: the shipped ones are right, the built-in one does the obvious, and what is
//! wrong is refused with its place and the way out.

mod builtin;
mod calibrations;
mod predictors;
mod refused;
mod shipped;

use std::path::Path;

use weir::control::{self, Checked, Environment, Options};
use weir::error::Problem;

/// The files of the catalogue, empty, in a folder of their own.
fn models() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let catalogue = include_str!("../models/catalogue.toml");
    let files: Vec<&str> =
        catalogue.lines().filter_map(|line| line.strip_prefix("file = \"")?.strip_suffix('"')).collect();
    assert!(files.len() >= 4, "the catalogue names no files");
    for file in files {
        std::fs::write(folder.path().join(file), b"").unwrap();
    }
    folder
}

/// The environment of most tests: that folder, and these variables.
fn environment<'a>(models: &'a Path, variables: &[(&'a str, &'a str)]) -> Environment {
    let models = [("WEIR_MODELS", models.to_str().unwrap())];
    Environment::fixed(models.into_iter().chain(variables.iter().copied()))
}

/// Reads a configuration of this text, beside these other files.
fn read(text: &str, others: &[(&str, &str)], variables: &[(&str, &str)]) -> Result<Checked, Vec<Problem>> {
    let folder = tempfile::tempdir().unwrap();
    let models = models();
    for (name, text) in others.iter().chain(&[("weir.toml", text)]) {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let config = Some(folder.path().join("weir.toml"));
    control::read(&Options { config, env: environment(models.path(), variables), ..Options::default() })
}
