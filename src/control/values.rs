//! The single values of a configuration: names, files, addresses, keys and prices, each checked by itself.
//!
//! Every refusal is one sentence with the value and the way out; `check` knows where it stands.

use std::path::{Path, PathBuf};

use http::Uri;

use super::read::{Placed, RawKey, RawPrice};
use super::sources::Reading;
use super::{Environment, catalogue};
use crate::account::{Price, Prices};
use crate::error::Problem;
use crate::request::Secret;

/// A path (relative to `folder`), a name of the catalogue, or `hf:ORG/REPO:FILE` → a file that is there.
///
/// # Errors
/// No such file, with the way to get it.
pub(super) fn find_file(text: &str, folder: &Path, env: &Environment, reading: &Reading) -> Result<PathBuf, String> {
    let known = || catalogue::entries().into_iter().map(|entry| entry.name).collect::<Vec<_>>().join(", ");
    let (file, way_out) = if text.starts_with("hf:") {
        let file = catalogue::hub_file(text, env)?;
        let name = file.file_name().unwrap_or_default();
        // `make models` and older releases put files of the hub straight into the folder.
        let plain = catalogue::folder(env).join(name);
        (if plain.is_file() { plain } else { file }, format!("get it with: weir models add {text}"))
    } else if let Some(file) = catalogue::file_of(text, env) {
        (file, format!("get it with: weir models add {text}, or make models"))
    } else {
        (folder.join(text), format!("want a GGUF file or a name of the catalogue: {}", known()))
    };
    if reading.model(&file).is_some() { Ok(file) } else { Err(format!("no file {}; {way_out}", file.display())) }
}

/// What a model is called that was given no name: as in the catalogue, else like its file.
pub(super) fn own_name(text: &str, file: &Path) -> String {
    if catalogue::entries().iter().any(|entry| entry.name == text) {
        return text.to_owned();
    }
    file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The address of an upstream; the message names it unless it holds credentials.
pub(super) fn parse_endpoint(text: &str) -> Result<Uri, String> {
    if text.contains('@') {
        return Err("an endpoint holds credentials; want them in api_key".to_owned());
    }
    let want = format!("endpoint \"{text}\": want a URL such as https://api.openai.com/v1, without query");
    let uri: Uri = text.trim_end_matches('/').parse().map_err(|_| want.clone())?;
    match (uri.scheme_str(), uri.authority(), uri.query()) {
        (Some("http" | "https"), Some(_), None) => Ok(uri),
        _ => Err(want),
    }
}

/// `Ok(None)`: not exactly one of `env` and `file`; `Err`: the place named holds no key.
pub(super) fn secret(
    raw: &RawKey,
    folder: &Path,
    env: &Environment,
    reading: &Reading,
) -> Result<Option<Secret>, String> {
    let found = match (&raw.env, &raw.file, raw.client) {
        (Some(name), None, None) => {
            env.get(name).ok_or_else(|| format!("the environment variable {name} is not set"))?
        }
        (None, Some(file), None) => {
            let file = folder.join(file);
            reading.key(&file).map_err(|error| format!("cannot read the key file {}: {error}", file.display()))?
        }
        _ => return Ok(None),
    };
    let key = found.trim();
    if key.is_empty() || key.contains(|c: char| !c.is_ascii_graphic()) {
        let place = raw.env.as_deref().or(raw.file.as_deref()).unwrap_or_default();
        return Err(format!("{place} holds no key: want printable characters without spaces"));
    }
    Ok(Some(Secret::new(key)))
}

/// Where what outlives the process is kept unless the file says so: as the XDG base directories have it.
pub(super) fn default_state(env: &Environment) -> Option<PathBuf> {
    let given = env.get("XDG_STATE_HOME").map(PathBuf::from).filter(|folder| folder.is_absolute());
    let usual = || Some(PathBuf::from(env.get("HOME")?).join(".local/state"));
    Some(given.or_else(usual)?.join("weir"))
}

/// Puts a price into the table.
pub(super) fn add_price(prices: &mut Prices, price: Placed<RawPrice>) -> Result<(), Problem> {
    let RawPrice { ref model, input, cached_input, output } = price.value;
    if !model.contains('/') {
        return Err(price.problem(format!(
            "price of \"{model}\": want a full name such as \"openai/gpt-4.1-mini\", or \"openai/*\""
        )));
    }
    let numbers = [Some(input), cached_input, Some(output)];
    if let Some(wrong) = numbers.into_iter().flatten().find(|number| !number.is_finite() || *number < 0.0) {
        return Err(price.problem(format!("price of \"{model}\": {wrong}; want USD per million tokens, 0 or more")));
    }
    match prices.table.insert(model.clone(), Price { input, cached_input, output }) {
        Some(_) => Err(price.problem(format!("price of \"{model}\" is given twice"))),
        None => Ok(()),
    }
}

/// What the name of a local model must be like, for problems.
pub(super) const LOCAL_FORM: &str = "names have no spaces, quotes, backslashes, stars or @";

/// What a name must be like, for problems.
pub(super) const NAME_FORM: &str = "names have no spaces, quotes, backslashes or stars";

/// Whether something may be called so: names stand in logs, headers and policies.
pub(super) fn is_name(name: &str) -> bool {
    let odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '"' | '\'' | '\\' | '*');
    !name.is_empty() && !name.contains(odd)
}

/// The bare name of a local model that is called `local/NAME` or `NAME`; what follows an `@` is Weir's own.
pub(super) fn local_name(name: &str) -> Option<&str> {
    let bare = name.strip_prefix("local/").or_else(|| (!name.contains('/')).then_some(name))?;
    (is_name(bare) && !bare.contains('@')).then_some(bare)
}

/// Whether only this machine can reach the address.
pub(super) fn is_loopback(listen: &str) -> bool {
    let host = listen.rsplit_once(':').map_or(listen, |(host, _)| host).trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
