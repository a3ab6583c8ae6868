//! Raw → checked: every name resolved, every file found, every policy compiled, or every problem told.
//!
//! Pure but for reading the files that the configuration names. `weir check` stops here; `build`
//! goes on from a [`Checked`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::Uri;

use super::defaults;
use super::read::{self, Placed, Raw, RawKey, RawModel, RawPrice, RawUpstream, RawVirtual};
use super::{Environment, Options, catalogue};
use crate::account::{Keys, Price, Prices};
use crate::api::Limits;
use crate::error::Problem;
use crate::local::ModelConfig;
use crate::policy::{Names, Policy};
use crate::request::{ModelId, Secret, TenantId};
use crate::upstream::{self, ApiKey, Models};

/// A configuration in which everything fits, ready to be built.
#[derive(Debug)]
pub struct Checked {
    /// The file, or `built-in configuration`.
    pub place: String,
    /// The data port's address.
    pub listen: String,
    /// The admin port's address.
    pub admin: String,
    /// Server worker threads.
    pub workers: usize,
    /// Threads that llama.cpp may compute with at once, all engines together.
    pub engine_threads: usize,
    /// What holds without being an error.
    pub warnings: Vec<String>,
    pub(super) limits: Limits,
    pub(super) keys: Keys,
    pub(super) prices: Prices,
    pub(super) models: Vec<ModelConfig>,
    pub(super) upstreams: Vec<CheckedUpstream>,
    pub(super) virtuals: Vec<VirtualModel>,
    /// Whether the name `auto` gets the built-in policy.
    pub(super) builtin_auto: bool,
}

/// A name that lets a policy choose.
#[derive(Debug)]
pub(super) struct VirtualModel {
    pub(super) name: String,
    file: PathBuf,
    pub(super) policy: Policy,
}

/// An upstream and the names it serves.
#[derive(Debug, Clone)]
pub(super) struct CheckedUpstream {
    pub(super) config: upstream::Config,
    pub(super) listed: Vec<String>,
    pub(super) any: bool,
    /// Whether its model is asked of its `/v1/models` at start, and what to take when that fails.
    pub(super) discover: Option<String>,
}

const DEFAULT_MAX_BODY: u64 = 16 << 20;

/// Reads and checks what the options name; without a file, the built-in configuration.
pub fn read(options: &Options) -> Result<Checked, Vec<Problem>> {
    let mut checker = Checker::new(options);
    match &options.config {
        Some(file) => {
            let place = file.display().to_string();
            let source = std::fs::read_to_string(file)
                .map_err(|error| vec![Problem { place: place.clone(), message: format!("cannot read the configuration: {error}") }])?;
            checker.file(read::parse(&place, &source)?, &place);
        }
        None => defaults::fill(&mut checker),
    }
    checker.finish()
}

/// Collects the checked parts and every problem.
pub(super) struct Checker<'a> {
    pub(super) options: &'a Options,
    pub(super) checked: Checked,
    pub(super) problems: Vec<Problem>,
    folder: PathBuf,
    policies: Vec<(String, PathBuf, String)>,
}

impl<'a> Checker<'a> {
    fn new(options: &'a Options) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let checked = Checked {
            place: options.config.as_ref().map_or_else(|| "built-in configuration".to_owned(), |file| file.display().to_string()),
            listen: "127.0.0.1:8080".to_owned(),
            admin: "127.0.0.1:8081".to_owned(),
            workers: cores,
            engine_threads: cores.saturating_sub(1).max(1),
            warnings: Vec::new(),
            limits: Limits { max_body: DEFAULT_MAX_BODY as usize, policy_headers: Vec::new() },
            keys: Keys::default(),
            prices: Prices::default(),
            models: Vec::new(),
            upstreams: Vec::new(),
            virtuals: Vec::new(),
            builtin_auto: false,
        };
        let folder = options.config.as_deref().and_then(Path::parent).map(Path::to_path_buf).unwrap_or_default();
        Checker { options, checked, problems: Vec::new(), folder, policies: Vec::new() }
    }

    fn file(&mut self, raw: Raw, place: &str) {
        self.top(&raw);
        for price in raw.price {
            self.price(price);
        }
        if let Some(prices) = raw.prices {
            self.price_file(&prices);
        }
        if self.options.models.is_empty() {
            for model in raw.models {
                self.model(model);
            }
        }
        for upstream in raw.upstreams {
            self.upstream(upstream);
        }
        for tenant in raw.tenants {
            let name = TenantId::new(tenant.value.name.as_str());
            match self.secret(&tenant.value.key) {
                Ok(Some(key)) => self.checked.keys.tenants.push((name, key)),
                Ok(None) => self.problems.push(tenant.problem("a tenant's key is { env = … } or { file = … }")),
                Err(message) => self.problems.push(tenant.problem(format!("tenant \"{name}\": {message}", name = tenant.value.name))),
            }
        }
        for one in raw.virtuals {
            self.virtual_model(&one);
        }
        if self.checked.models.is_empty() && self.checked.upstreams.is_empty() && self.options.models.is_empty() {
            self.problems.push(Problem { place: place.to_owned(), message: "no [[model]] and no [[upstream]]: nothing could answer".to_owned() });
        }
    }

    fn top(&mut self, raw: &Raw) {
        let checked = &mut self.checked;
        if let Some(listen) = &raw.listen {
            checked.listen.clone_from(&listen.value);
        }
        if let Some(admin) = &raw.admin {
            checked.admin.clone_from(&admin.value);
        }
        if let Some(max_body) = &raw.max_body {
            checked.limits.max_body = usize::try_from(max_body.value.as_u64()).unwrap_or(usize::MAX);
        }
        if let Some(headers) = &raw.policy_headers {
            checked.limits.policy_headers = headers.value.iter().map(|name| name.to_ascii_lowercase()).collect();
        }
        for (threads, target) in [(&raw.engine_threads, &mut checked.engine_threads), (&raw.workers, &mut checked.workers)] {
            let Some(threads) = threads else { continue };
            *target = threads.value;
            if threads.value == 0 {
                self.problems.push(threads.problem("0 threads compute nothing; want 1 or more"));
            }
        }
    }

    fn price(&mut self, price: Placed<RawPrice>) {
        let RawPrice { ref model, input, cached_input, output } = price.value;
        let numbers = [Some(input), cached_input, Some(output)];
        if numbers.iter().flatten().any(|number| !number.is_finite() || *number < 0.0) {
            self.problems.push(price.problem(format!("price of \"{model}\": want USD per million tokens, 0 or more")));
        }
        let known = self.checked.prices.table.insert(model.clone(), Price { input, cached_input, output });
        if known.is_some() {
            self.problems.push(price.problem(format!("price of \"{model}\" is given twice")));
        }
    }

    fn price_file(&mut self, prices: &Placed<String>) {
        let file = self.folder.join(&prices.value);
        let place = file.display().to_string();
        let source = match std::fs::read_to_string(&file) {
            Ok(source) => source,
            Err(error) => return self.problems.push(prices.problem(format!("prices = \"{}\": cannot read {place}: {error}", prices.value))),
        };
        match read::parse_prices(&place, &source) {
            Ok(found) => {
                for price in found.into_iter().filter(|price| !self.checked.prices.table.contains_key(&price.value.model)).collect::<Vec<_>>() {
                    self.price(price);
                }
            }
            Err(problems) => self.problems.extend(problems),
        }
    }

    fn model(&mut self, model: Placed<RawModel>) {
        let name = model.value.name.strip_prefix("local/").unwrap_or(&model.value.name).to_owned();
        if name.is_empty() || model.value.name.contains('/') && !model.value.name.starts_with("local/") {
            return self.problems.push(model.problem(format!("model name \"{}\": want \"local/NAME\"", model.value.name)));
        }
        for (what, zero) in [("slots", model.value.slots == Some(0)), ("context", model.value.context == Some(0))] {
            if zero {
                self.problems.push(model.problem(format!("model \"{name}\": {what} = 0; want 1 or more")));
            }
        }
        match find_file(&model.value.file, &self.folder, &self.options.env) {
            Ok(file) => {
                let entry = local_model(&name, file, &model.value);
                self.add_model(entry, &model.place);
            }
            Err(message) => self.problems.push(model.problem(format!("model \"{name}\": {message}"))),
        }
    }

    /// Adds a local model, unless its name is taken.
    pub(super) fn add_model(&mut self, model: ModelConfig, place: &str) {
        if self.checked.models.iter().any(|known| known.id == model.id) {
            let message = format!("model \"{}\" is given twice", model.id);
            return self.problems.push(Problem { place: place.to_owned(), message });
        }
        self.checked.models.push(model);
    }

    fn upstream(&mut self, upstream: Placed<RawUpstream>) {
        let raw = &upstream.value;
        let name = &raw.name;
        if name.is_empty() || name.contains('/') || name == "local" {
            self.problems.push(upstream.problem(format!("upstream name \"{name}\": want a name without slash; \"local\" is reserved")));
        }
        if self.checked.upstreams.iter().any(|known| known.config.name == *name) {
            self.problems.push(upstream.problem(format!("upstream \"{name}\" is given twice")));
        }
        if let Some(dialect) = raw.dialect.as_deref().filter(|dialect| *dialect != "openai") {
            self.problems.push(upstream.problem(format!("upstream \"{name}\": unknown dialect \"{dialect}\"; known: openai")));
        }
        if raw.endpoints.is_empty() || raw.models.is_empty() {
            self.problems.push(upstream.problem(format!("upstream \"{name}\": endpoints and models want at least one entry each")));
        }
        let api_key = match self.api_key(name, raw.api_key.as_ref()) {
            Ok(key) => key,
            Err(message) => return self.problems.push(upstream.problem(format!("upstream \"{name}\": {message}"))),
        };
        let mut endpoints = Vec::new();
        for endpoint in &raw.endpoints {
            match parse_endpoint(endpoint) {
                Ok(uri) => endpoints.push(uri),
                Err(message) => self.problems.push(upstream.problem(format!("upstream \"{name}\": endpoint \"{endpoint}\": {message}"))),
            }
        }
        let mut config = upstream::Config::new(name.clone(), endpoints);
        config.api_key = api_key;
        config.connect_timeout = raw.connect_timeout.unwrap_or(config.connect_timeout);
        config.first_byte_timeout = raw.first_byte_timeout.unwrap_or(config.first_byte_timeout);
        config.idle_timeout = raw.idle_timeout.unwrap_or(config.idle_timeout);
        config.retries = raw.retries.unwrap_or(config.retries);
        let listed: Vec<String> = raw.models.iter().filter(|model| *model != "*").cloned().collect();
        let any = listed.len() < raw.models.len();
        config.models = if any { Models::Any } else { Models::Listed(listed.clone()) };
        self.checked.upstreams.push(CheckedUpstream { config, listed, any, discover: None });
    }

    /// The key of an upstream; an unset one is a warning, a badly written one an error.
    pub(super) fn api_key(&mut self, upstream: &str, raw: Option<&RawKey>) -> Result<ApiKey, String> {
        let Some(raw) = raw else { return Ok(ApiKey::None) };
        if raw.client == Some(true) && raw.env.is_none() && raw.file.is_none() {
            return Ok(ApiKey::Client);
        }
        match self.secret(raw) {
            Ok(Some(key)) => Ok(ApiKey::Value(key)),
            Ok(None) => Err("api_key: want one of { env = \"NAME\" }, { file = \"PATH\" }, { client = true }".to_owned()),
            Err(reason) => {
                self.checked.warnings.push(format!("upstream \"{upstream}\" is unavailable: {reason}"));
                Ok(ApiKey::Missing { reason })
            }
        }
    }

    /// `Ok(None)`: neither `env` nor `file`, or both; `Err`: the place named holds no key.
    fn secret(&self, raw: &RawKey) -> Result<Option<Secret>, String> {
        let found = match (&raw.env, &raw.file) {
            (Some(name), None) => self.options.env.get(name).ok_or_else(|| format!("the environment variable {name} is not set"))?,
            (None, Some(file)) => {
                let file = self.folder.join(file);
                std::fs::read_to_string(&file).map_err(|error| format!("cannot read the key file {}: {error}", file.display()))?
            }
            _ => return Ok(None),
        };
        let key = found.trim();
        if key.is_empty() { Err("the key is empty".to_owned()) } else { Ok(Some(Secret::new(key))) }
    }

    fn virtual_model(&mut self, one: &Placed<RawVirtual>) {
        let name = &one.value.name;
        if name.is_empty() || name.contains('/') || self.policies.iter().any(|(known, ..)| known == name) {
            self.problems.push(one.problem(format!("virtual model \"{name}\": want a name of its own, without slash")));
        }
        let file = self.folder.join(&one.value.policy);
        match std::fs::read_to_string(&file) {
            Ok(source) => self.policies.push((name.clone(), file, source)),
            Err(error) => self.problems.push(one.problem(format!("virtual model \"{name}\": cannot read the policy {}: {error}", file.display()))),
        }
    }

    fn finish(mut self) -> Result<Checked, Vec<Problem>> {
        self.flags();
        let names = self.checked.names();
        for (name, file, source) in std::mem::take(&mut self.policies) {
            match Policy::compile(&file.display().to_string(), &source, &names) {
                Ok(policy) => self.checked.virtuals.push(VirtualModel { name, file, policy }),
                Err(problems) => self.problems.extend(problems),
            }
        }
        self.checked.builtin_auto = !self.checked.virtuals.iter().any(|one| one.name == "auto");
        if self.checked.keys.tenants.is_empty() && !is_loopback(&self.checked.listen) {
            self.checked.warnings.push(format!("listening on {} without [[tenant]]: everybody who can reach it may spend", self.checked.listen));
        }
        if self.problems.is_empty() { Ok(self.checked) } else { Err(self.problems) }
    }

    /// Flags win over the file.
    fn flags(&mut self) {
        let options = self.options;
        for (name, file) in &options.models {
            match find_file(file, Path::new(""), &options.env) {
                Ok(file) => {
                    let stem = || file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
                    let name = name.clone().unwrap_or_else(stem);
                    let id = ModelId::new(format!("local/{}", name.strip_prefix("local/").unwrap_or(&name)));
                    self.add_model(ModelConfig::new(id, file), "--model");
                }
                Err(message) => self.problems.push(Problem { place: "--model".to_owned(), message }),
            }
        }
        if let Some(listen) = &options.listen {
            self.checked.listen.clone_from(listen);
        }
        if let Some(admin) = &options.admin {
            self.checked.admin.clone_from(admin);
        }
    }
}

impl Checked {
    /// Runs the examples that stand beside the policies: `NAME.cases.jsonl` for `NAME.toml`.
    pub fn check_cases(&self) -> Vec<Problem> {
        self.virtuals.iter().flat_map(|one| policy_cases(&one.file, &one.policy)).collect()
    }

    /// What policies may name.
    pub fn names(&self) -> Names {
        let mut models: BTreeSet<ModelId> = self.models.iter().map(|model| model.id.clone()).collect();
        let mut short: BTreeMap<String, Option<ModelId>> = BTreeMap::new();
        let listed = self.upstreams.iter().flat_map(|one| one.listed.iter().map(|model| ModelId::new(format!("{}/{model}", one.config.name))));
        models.extend(listed);
        for model in &models {
            let bare = model.split().map_or(model.as_str(), |(_, bare)| bare).to_owned();
            short.entry(bare).and_modify(|known| *known = None).or_insert_with(|| Some(model.clone()));
        }
        Names {
            models,
            short: short.into_iter().filter_map(|(bare, model)| model.map(|model| (bare, model))).collect(),
            wildcards: self.upstreams.iter().filter(|one| one.any).map(|one| one.config.name.clone()).collect(),
            headers: self.limits.policy_headers.iter().cloned().collect(),
            any: false,
        }
    }
}

/// Every problem of a policy file by itself, its cases included.
pub fn check_policy(file: &Path, source: &str, names: &Names) -> Vec<Problem> {
    match Policy::compile(&file.display().to_string(), source, names) {
        Ok(policy) => policy_cases(file, &policy),
        Err(problems) => problems,
    }
}

fn policy_cases(file: &Path, policy: &Policy) -> Vec<Problem> {
    let cases = file.with_extension("cases.jsonl");
    match std::fs::read_to_string(&cases) {
        Ok(source) => policy.check_cases(&cases.display().to_string(), &source),
        Err(_) => Vec::new(),
    }
}

/// A local model by its bare name, with the file's settings or the defaults.
fn local_model(name: &str, file: PathBuf, raw: &RawModel) -> ModelConfig {
    let usual = ModelConfig::new(ModelId::new(format!("local/{name}")), file);
    ModelConfig {
        context: raw.context,
        slots: raw.slots.unwrap_or(usual.slots),
        queue: raw.queue.unwrap_or(usual.queue),
        ..usual
    }
}

/// A path, a name of the catalogue, or `hf:ORG/REPO:FILE` → a file that is there.
fn find_file(text: &str, folder: &Path, env: &Environment) -> Result<PathBuf, String> {
    let known = || catalogue::entries().into_iter().map(|entry| entry.name).collect::<Vec<_>>().join(", ");
    let (file, way_out) = if let Some(rest) = text.strip_prefix("hf:") {
        let name = rest.rsplit_once(':').map(|(_, file)| file).ok_or_else(|| format!("\"{text}\": want hf:ORG/REPO:FILE"))?;
        let name = name.rsplit('/').next().unwrap_or(name);
        (catalogue::folder(env).join(name), format!("download {name} into {}", catalogue::folder(env).display()))
    } else if let Some(file) = catalogue::file_of(text, env) {
        (file, format!("get it with: make models (fetches {text})"))
    } else {
        (folder.join(text), format!("want a GGUF file or a name of the catalogue: {}", known()))
    };
    if file.is_file() { Ok(file) } else { Err(format!("no file {}; {way_out}", file.display())) }
}

fn parse_endpoint(text: &str) -> Result<Uri, String> {
    let uri: Uri = text.parse().map_err(|error| format!("{error}"))?;
    match (uri.scheme_str(), uri.authority(), uri.query()) {
        (Some("http" | "https"), Some(_), None) => Ok(uri),
        _ => Err("want a URL such as https://api.openai.com/v1, without query".to_owned()),
    }
}

fn is_loopback(listen: &str) -> bool {
    let host = listen.rsplit_once(':').map_or(listen, |(host, _)| host).trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// How long a reload may wait for an upstream to list its models.
pub(super) const DISCOVERY_TIMEOUT: Duration = Duration::from_secs(5);
