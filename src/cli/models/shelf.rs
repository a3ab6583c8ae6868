//! The folder of models: what lies in it, what is taken in, what is deleted.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::bar::size;
use super::download::beside;
use crate::control::{self, Environment};
use crate::local::Header;

/// Folders within folders that are looked into: `ORG/REPO/SUBFOLDER/…`.
const DEPTH: usize = 5;

/// Links or copies a file into the folder; answers where it is now.
pub(super) fn take_in(file: &Path, copy: bool, env: &Environment) -> Result<PathBuf, String> {
    let known = || control::entries().into_iter().map(|entry| entry.name).collect::<Vec<_>>().join(", ");
    let header = Header::read(file).map_err(|error| {
        format!("{}: {error}; want hf:ORG/REPO:FILE, a GGUF file, or one of: {}", file.display(), known())
    })?;
    let told = |error: std::io::Error| format!("{}: {error}", file.display());
    let real = fs::canonicalize(file).map_err(told)?;
    let folder = control::folder(env);
    fs::create_dir_all(&folder).map_err(told)?;
    let target = folder.join(real.file_name().unwrap_or_default());
    if fs::canonicalize(&target).is_ok_and(|known| known == real) {
        return Ok(target);
    }
    if fs::symlink_metadata(&target).is_ok() {
        return Err(format!("{} is there already; remove it first, or rename yours", target.display()));
    }
    if !copy {
        std::os::unix::fs::symlink(&real, &target).map_err(told)?;
        return Ok(target);
    }
    if super::free_bytes(&folder).is_some_and(|free| free < header.bytes) {
        return Err(format!(
            "{} do not fit into {}; leave out --copy to link it",
            size(header.bytes),
            folder.display()
        ));
    }
    let part = beside(&target, ".part");
    fs::copy(&real, &part).and_then(|_| fs::rename(&part, &target)).map_err(told)?;
    Ok(target)
}

/// Prints what lies in the folder.
#[expect(clippy::print_stdout, reason = "the command's output")]
pub(super) fn list(env: &Environment, admin: Option<&str>) -> Result<(), String> {
    let folder = control::folder(env);
    let mut files = Vec::new();
    collect(&folder, DEPTH, &mut files);
    files.sort();
    println!("{} models in {}", files.len(), folder.display());
    let rows: Vec<[String; 4]> = files.iter().map(|file| row(file, &folder)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    for [name, bytes, kind, path] in &rows {
        println!("{name:<0$}  {bytes:>1$}  {kind:<2$}  {path}", width(0), width(1), width(2));
    }
    for line in admin.map(served).transpose()?.unwrap_or_default() {
        println!("{line}");
    }
    Ok(())
}

fn collect(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && depth > 0 {
            collect(&path, depth - 1, files);
        } else if path.is_file() && path.extension().is_some_and(|kind| kind == "gguf") {
            files.push(path);
        }
    }
}

/// What a configuration writes for a file, its size, how it is stored, and where.
fn row(file: &Path, folder: &Path) -> [String; 4] {
    let inside = file.strip_prefix(folder).unwrap_or(file);
    let parts: Vec<String> = inside.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    let known = control::entries().into_iter().find(|entry| Path::new(&entry.file) == inside);
    let name = match (known, parts.as_slice()) {
        (Some(entry), _) => entry.name,
        (None, [org, repo, rest @ ..]) if !rest.is_empty() => format!("hf:{org}/{repo}:{}", rest.join("/")),
        (None, _) => file.display().to_string(),
    };
    let (bytes, kind) = match Header::read(file) {
        Ok(header) => (size(header.bytes), header.quantisation()),
        Err(_) => (size(fs::metadata(file).map_or(0, |found| found.len())), "damaged".to_owned()),
    };
    [name, bytes, kind, file.display().to_string()]
}

/// The models that a running Weir has, by its metrics.
fn served(admin: &str) -> Result<Vec<String>, String> {
    let url = format!("{}/metrics", admin.trim_end_matches('/'));
    let url = if url.starts_with("http") { url } else { format!("http://{url}") };
    let agent = ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(5))).build().new_agent();
    let page = agent.get(&url).call().and_then(|mut answer| answer.body_mut().read_to_string());
    Ok(states(&page.map_err(|error| format!("{url}: {error}"))?))
}

/// `local/NAME is STATE` for every model of a page of metrics.
fn states(page: &str) -> Vec<String> {
    let of = |line: &str| {
        let labels = line.strip_prefix("weir_model_state{")?.strip_suffix("} 1")?;
        let label = |name: &str| Some(labels.split_once(&format!("{name}=\""))?.1.split_once('"')?.0.to_owned());
        Some(format!("served: {} is {}", label("model")?, label("state")?))
    };
    page.lines().filter_map(of).collect()
}

/// Deletes a model of the folder.
#[expect(clippy::print_stdout, reason = "the command's output")]
pub(super) fn remove(what: &str, env: &Environment) -> Result<(), String> {
    let folder = control::folder(env);
    let file = match control::model_file(what, Path::new(""), env) {
        Ok(file) => file,
        Err(message) => control::model_file(what, &folder, env).map_err(|_| message)?,
    };
    // A link is removed, not what it points to: only its folder is resolved.
    let parent = file.parent().and_then(|parent| fs::canonicalize(parent).ok());
    let inside = parent.zip(fs::canonicalize(&folder).ok()).is_some_and(|(parent, folder)| parent.starts_with(folder));
    if !inside {
        return Err(format!("{} does not lie in {}; delete it yourself", file.display(), folder.display()));
    }
    fs::remove_file(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    // A file without its stamp was not downloaded.
    let _ = fs::remove_file(beside(&file, ".ok"));
    println!("removed {}", file.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_served_is_read_off_the_metrics() {
        let page = "# HELP x\nweir_model_state{model=\"local/a\",state=\"warm\"} 1\n\
                    weir_model_state{model=\"local/a\",state=\"loading\"} 0\n\
                    weir_model_state{model=\"local/b\",state=\"unloaded\"} 1\n";
        assert_eq!(states(page), ["served: local/a is warm", "served: local/b is unloaded"]);
    }

    fn folder() -> (tempfile::TempDir, Environment) {
        let folder = tempfile::tempdir().unwrap();
        let env = Environment::fixed([("WEIR_MODELS", folder.path().join("models").to_str().unwrap())]);
        (folder, env)
    }

    /// The smallest file that is one.
    const EMPTY: &[u8] = b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

    #[test]
    fn a_file_of_this_machine_is_linked_or_copied_and_removed_without_the_original() {
        for copy in [false, true] {
            let (outside, env) = folder();
            let mine = outside.path().join("mine.gguf");
            fs::write(&mine, EMPTY).unwrap();
            let taken = take_in(&mine, copy, &env).unwrap();
            assert_eq!(fs::symlink_metadata(&taken).unwrap().is_symlink(), !copy);
            assert_eq!(fs::read(&taken).unwrap(), EMPTY);
            remove("mine.gguf", &env).unwrap();
            assert!(mine.is_file() && !taken.is_file());
        }
    }

    #[test]
    fn what_is_no_model_is_not_taken_in_and_nothing_outside_is_removed() {
        let (outside, env) = folder();
        let text = outside.path().join("text.gguf");
        fs::write(&text, b"hello").unwrap();
        assert!(take_in(&text, false, &env).unwrap_err().contains("not a GGUF file"));
        fs::write(&text, EMPTY).unwrap();
        take_in(&text, true, &env).unwrap();
        assert!(remove(text.to_str().unwrap(), &env).unwrap_err().contains("delete it yourself"));
        assert!(text.is_file());
        fs::write(&text, [EMPTY, b"more"].concat()).unwrap();
        assert!(take_in(&text, true, &env).unwrap_err().contains("is there already"));
    }

    #[test]
    fn a_file_is_named_as_a_configuration_writes_it() {
        let base = Path::new("/m");
        let name = |path: &str| row(&base.join(path), base)[0].clone();
        assert_eq!(name("Org/Repo/sub/f.gguf"), "hf:Org/Repo:sub/f.gguf");
        assert_eq!(name("smollm2-135m-instruct-q4_1.gguf"), "smollm2-135m-instruct");
        assert_eq!(name("mine.gguf"), "/m/mine.gguf");
    }
}
