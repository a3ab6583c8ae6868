//! Raw → checked: every name resolved, every file found, every policy compiled, or every problem told.
//!
//! Pure but for reading the files that the configuration names. `weir check` stops here; `build`
//! goes on from a [`Checked`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::header::{AUTHORIZATION, HeaderName};

use super::calibrations::Calibrations;
use super::capture::{self, Capture};
use super::overlay::{CheckedCanary, Overlay, Tried};
use super::read::{self, Placed, Raw, RawCapture, RawKey, RawTenant, RawUpstream, RawVirtual};
use super::sources::{Reading, Sources};
use super::values::{
    LOCAL_FORM, NAME_FORM, add_price, default_state, find_file, is_loopback, is_name, local_name, own_name,
    parse_endpoint, secret,
};
use super::{Options, Telemetry, bodies, defaults, telemetry};
use crate::account::{Keys, Prices};
use crate::api::Limits;
use crate::error::Problem;
use crate::local::ModelConfig;
use crate::policy::{Names, Policy};
use crate::request::{ModelId, TenantId};
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
    /// Where what outlives the process is kept; `None`: nowhere.
    pub state: Option<PathBuf>,
    /// Bytes that all local models together may take; `None`: what the system gives.
    pub memory: Option<u64>,
    /// How long a request waits for a model to be loaded.
    pub load_wait: Duration,
    /// What holds without being an error.
    pub warnings: Vec<String>,
    /// Whether requests and answers are logged, and where.
    pub capture: Option<Capture>,
    /// Whether changed files are applied by themselves.
    pub watch: bool,
    /// The key of the admin port; empty: whoever is on this machine.
    pub(super) operators: Keys,
    /// Whether requests are traced, and where to.
    pub telemetry: Option<Telemetry>,
    pub(super) limits: Limits,
    pub(super) keys: Keys,
    pub(super) prices: Prices,
    pub(super) models: Vec<ModelConfig>,
    /// Candidates beside them.
    pub(super) canaries: Vec<CheckedCanary>,
    /// What was changed while models ran, as far as it stands.
    pub(super) overlay: Overlay,
    /// The files of the models as they are without it.
    pub(super) configured: BTreeMap<ModelId, PathBuf>,
    pub(super) upstreams: Vec<CheckedUpstream>,
    pub(super) virtuals: Vec<VirtualModel>,
    /// Whether the name `auto` gets the built-in policy.
    pub(super) builtin_auto: bool,
    /// What it was read from.
    pub(super) sources: Sources,
}

/// A name that lets a policy choose.
#[derive(Debug)]
pub(super) struct VirtualModel {
    pub(super) name: String,
    pub(super) file: PathBuf,
    pub(super) policy: Policy,
}

/// A virtual model whose policy is not compiled yet: that needs every model's name.
struct Draft {
    place: String,
    name: String,
    file: PathBuf,
    source: Arc<str>,
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

const MOST_THREADS: usize = 1024;
/// How long a request waits for a model to be loaded.
const LOAD_WAIT: Duration = Duration::from_secs(60);
const MOST_ENDPOINTS: usize = 64;

/// Reads and checks what the options name; without a file, the built-in configuration.
///
/// # Errors
/// Every problem of every file.
pub fn read(options: &Options) -> Result<Checked, Vec<Problem>> {
    read_as(options, &Reading::default())
}

/// The same, of the files of this reading, which knows afterwards what was read, right or wrong.
pub(super) fn read_as(options: &Options, reading: &Reading) -> Result<Checked, Vec<Problem>> {
    let mut checker = Checker::new(options, reading);
    match &options.config {
        Some(file) => {
            let place = file.display().to_string();
            let source = reading.text(file).map_err(|error| {
                vec![Problem { place: place.clone(), message: format!("cannot read the configuration: {error}") }]
            })?;
            checker.file(read::parse(&place, &source).map_err(|problem| vec![problem])?, &place);
        }
        None => defaults::fill(&mut checker),
    }
    let checked = checker.finish()?;
    Ok(Checked { sources: reading.sources(), ..checked })
}

/// Collects the checked parts and every problem.
pub(super) struct Checker<'a> {
    pub(super) options: &'a Options,
    pub(super) reading: &'a Reading,
    pub(super) checked: Checked,
    pub(super) problems: Vec<Problem>,
    pub(super) folder: PathBuf,
    /// Where the admin port's address is given.
    admin_place: String,
    drafts: Vec<Draft>,
    /// The candidates of the configuration.
    pub(super) tried: Vec<Placed<Tried>>,
    /// Whether something of the file could not be read, so that policies may name what is unknown.
    partly: bool,
}

impl<'a> Checker<'a> {
    fn new(options: &'a Options, reading: &'a Reading) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let checked = Checked {
            place: options
                .config
                .as_ref()
                .map_or_else(|| "built-in configuration".to_owned(), |file| file.display().to_string()),
            listen: "127.0.0.1:8080".to_owned(),
            admin: "127.0.0.1:8081".to_owned(),
            workers: cores,
            engine_threads: cores.saturating_sub(1).max(1),
            state: default_state(&options.env),
            memory: None,
            load_wait: LOAD_WAIT,
            warnings: Vec::new(),
            capture: None,
            watch: true,
            operators: Keys::default(),
            telemetry: None,
            limits: bodies::usual(),
            keys: Keys::default(),
            prices: Prices::default(),
            models: Vec::new(),
            canaries: Vec::new(),
            overlay: Overlay::default(),
            configured: BTreeMap::new(),
            upstreams: Vec::new(),
            virtuals: Vec::new(),
            builtin_auto: false,
            sources: Sources::default(),
        };
        let folder = options.config.as_deref().and_then(Path::parent).map(Path::to_path_buf).unwrap_or_default();
        let admin_place = checked.place.clone();
        Checker {
            options,
            reading,
            checked,
            problems: Vec::new(),
            folder,
            admin_place,
            drafts: Vec::new(),
            tried: Vec::new(),
            partly: false,
        }
    }

    fn file(&mut self, raw: Raw, place: &str) {
        self.top(&raw);
        self.partly = !raw.problems.is_empty();
        if !self.partly && raw.models.is_empty() && raw.upstreams.is_empty() && self.options.models.is_empty() {
            self.problems.push(Problem {
                place: place.to_owned(),
                message: "no [[model]] and no [[upstream]]: nothing could answer".to_owned(),
            });
        }
        self.problems.extend(raw.problems);
        for price in raw.price {
            self.problems.extend(add_price(&mut self.checked.prices, price).err());
        }
        if let Some(prices) = raw.prices {
            self.price_file(&prices);
        }
        if self.options.models.is_empty() {
            self.models(raw.models);
        }
        for upstream in raw.upstreams {
            if !raw.tenants.is_empty() {
                self.problems.extend(leaked_keys(&upstream));
            }
            self.upstream(upstream);
        }
        if let Some(capture) = &raw.capture {
            self.capture(capture);
        }
        if let Some(raw) = &raw.telemetry {
            self.checked.telemetry = telemetry::check(raw, &self.options.env, &mut self.problems);
        }
        for tenant in raw.tenants {
            self.tenant(&tenant);
        }
        for one in raw.virtuals {
            self.virtual_model(one);
        }
    }

    fn top(&mut self, raw: &Raw) {
        if let Some(listen) = &raw.listen {
            self.checked.listen = self.address(&listen.place, &listen.value);
        }
        if let Some(admin) = &raw.admin {
            self.checked.admin = self.address(&admin.place, &admin.value);
            self.admin_place.clone_from(&admin.place);
        }
        self.checked.watch = raw.watch.as_ref().is_none_or(|watch| watch.value);
        if let Some(token) = &raw.admin_token {
            self.admin_token(token);
        }
        bodies::check(raw, &mut self.checked.limits, &mut self.problems);
        self.memory(raw);
        if let Some(state) = &raw.state {
            if state.value.is_empty() {
                self.problems.push(state.problem("state is empty; want a folder"));
            }
            self.checked.state = Some(self.folder.join(&state.value));
        }
        let checked = &mut self.checked;
        for (threads, target) in
            [(&raw.engine_threads, &mut checked.engine_threads), (&raw.workers, &mut checked.workers)]
        {
            let Some(threads) = threads else { continue };
            *target = threads.value;
            if !(1..=MOST_THREADS).contains(&threads.value) {
                self.problems.push(threads.problem(format!("{} threads; want 1 to {MOST_THREADS}", threads.value)));
            }
        }
        for name in raw.policy_headers.iter().flat_map(|headers| &headers.value) {
            match HeaderName::from_bytes(name.as_bytes()) {
                Ok(AUTHORIZATION) => {
                    self.header_problem(raw, name, "holds the client's key; policies read request.tenant instead")
                }
                Ok(header) => self.checked.limits.policy_headers.push(header.as_str().to_owned()),
                Err(_) => self.header_problem(raw, name, "is no name of a header, such as \"x-team\""),
            }
        }
    }

    fn admin_token(&mut self, token: &Placed<RawKey>) {
        match secret(&token.value, &self.folder, &self.options.env, self.reading) {
            Ok(Some(key)) => self.checked.operators.tenants = vec![(TenantId::new("token"), key)],
            Ok(None) => {
                self.problems.push(token.problem("admin_token: want one of { env = \"NAME\" }, { file = \"PATH\" }"))
            }
            Err(message) => self.problems.push(token.problem(format!("admin_token: {message}"))),
        }
    }

    fn header_problem(&mut self, raw: &Raw, name: &str, what: &str) {
        let placed = raw.policy_headers.as_ref();
        self.problems.extend(placed.map(|headers| headers.problem(format!("policy_headers: \"{name}\" {what}"))));
    }

    /// Takes the address over; one that cannot be one is a problem.
    fn address(&mut self, place: &str, text: &str) -> String {
        let fits = text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        if !fits {
            let message = format!("cannot listen on \"{text}\"; want HOST:PORT such as 127.0.0.1:8080");
            self.problems.push(Problem { place: place.to_owned(), message });
        }
        text.to_owned()
    }

    fn capture(&mut self, raw: &Placed<RawCapture>) {
        match capture::check(raw, &self.folder) {
            Ok(capture) => self.checked.capture = Some(capture),
            Err(problems) => {
                self.problems.extend(problems.into_iter().map(|what| raw.problem(format!("capture: {what}"))));
            }
        }
    }

    fn tenant(&mut self, tenant: &Placed<RawTenant>) {
        let name = &tenant.value.name;
        if !is_name(name) {
            self.problems.push(tenant.problem(format!("tenant name \"{name}\": {NAME_FORM}")));
        }
        let tenants = &mut self.checked.keys.tenants;
        match secret(&tenant.value.key, &self.folder, &self.options.env, self.reading) {
            Ok(Some(key)) => match tenants.iter().find(|(_, known)| *known == key) {
                Some((owner, _)) => {
                    let owner = owner.as_str();
                    self.problems
                        .push(tenant.problem(format!("tenant \"{name}\": its key is that of tenant \"{owner}\" too")));
                }
                None => tenants.push((TenantId::new(name.as_str()), key)),
            },
            Ok(None) => {
                let message =
                    format!("tenant \"{name}\": key: want one of {{ env = \"NAME\" }}, {{ file = \"PATH\" }}");
                self.problems.push(tenant.problem(message));
            }
            Err(message) => self.problems.push(tenant.problem(format!("tenant \"{name}\": {message}"))),
        }
    }

    fn price_file(&mut self, prices: &Placed<String>) {
        let file = self.folder.join(&prices.value);
        let place = file.display().to_string();
        let source = match self.reading.text(&file) {
            Ok(source) => source,
            Err(error) => {
                return self
                    .problems
                    .push(prices.problem(format!("prices = \"{}\": cannot read {place}: {error}", prices.value)));
            }
        };
        match read::parse_prices(&place, &source) {
            Ok(found) => {
                let prices = &mut self.checked.prices;
                let inline = prices.table.clone();
                let new = found.into_iter().filter(|price| !inline.contains_key(&price.value.model));
                self.problems.extend(new.filter_map(|price| add_price(prices, price).err()));
            }
            Err(problems) => self.problems.extend(problems),
        }
    }

    fn upstream(&mut self, upstream: Placed<RawUpstream>) {
        let raw = &upstream.value;
        let name = &raw.name;
        let mut problems = Vec::new();
        if !is_name(name) || name.contains('/') || name == "local" {
            problems.push(format!("want a name without slash, other than \"local\"; {NAME_FORM}"));
        }
        if self.checked.upstreams.iter().any(|known| known.config.name == *name) {
            problems.push("is given twice".to_owned());
        }
        if let Some(dialect) = raw.dialect.as_deref().filter(|dialect| *dialect != "openai") {
            problems.push(format!("unknown dialect \"{dialect}\"; known: openai"));
        }
        if raw.models.is_empty() {
            problems.push("models is empty; want names, or \"*\" for any".to_owned());
        }
        if !(1..=MOST_ENDPOINTS).contains(&raw.endpoints.len()) {
            problems.push(format!("{} endpoints; want 1 to {MOST_ENDPOINTS}", raw.endpoints.len()));
        }
        let listed: Vec<String> = raw.models.iter().filter(|model| *model != "*").cloned().collect();
        problems.extend(
            listed.iter().filter(|model| !is_name(model)).map(|model| format!("model name \"{model}\": {NAME_FORM}")),
        );
        let mut endpoints = Vec::new();
        for endpoint in &raw.endpoints {
            match parse_endpoint(endpoint) {
                Ok(uri) => endpoints.push(uri),
                Err(message) => problems.push(message),
            }
        }
        let api_key = self.api_key(name, raw.api_key.as_ref()).unwrap_or_else(|message| {
            problems.push(message);
            ApiKey::None
        });
        self.problems.extend(problems.into_iter().map(|what| upstream.problem(format!("upstream \"{name}\": {what}"))));
        let any = listed.len() < raw.models.len();
        let usual = upstream::Config::new(name.clone(), endpoints);
        let config = upstream::Config {
            api_key,
            connect_timeout: raw.connect_timeout.unwrap_or(usual.connect_timeout),
            first_byte_timeout: raw.first_byte_timeout.unwrap_or(usual.first_byte_timeout),
            idle_timeout: raw.idle_timeout.unwrap_or(usual.idle_timeout),
            retries: raw.retries.unwrap_or(usual.retries),
            models: if any { Models::Any } else { Models::Listed(listed.clone()) },
            ..usual
        };
        self.checked.upstreams.push(CheckedUpstream { config, listed, any, discover: None });
    }

    /// The key of an upstream; an unset one is a warning, a badly written one an error.
    pub(super) fn api_key(&mut self, upstream: &str, raw: Option<&RawKey>) -> Result<ApiKey, String> {
        let Some(raw) = raw else { return Ok(ApiKey::None) };
        if (raw.client, &raw.env, &raw.file) == (Some(true), &None, &None) {
            return Ok(ApiKey::Client);
        }
        match secret(raw, &self.folder, &self.options.env, self.reading) {
            Ok(Some(key)) => Ok(ApiKey::Value(key)),
            Ok(None) => {
                Err("api_key: want one of { env = \"NAME\" }, { file = \"PATH\" }, { client = true }".to_owned())
            }
            Err(reason) => {
                self.checked.warnings.push(format!("upstream \"{upstream}\" is unavailable: {reason}"));
                Ok(ApiKey::Missing { reason })
            }
        }
    }

    fn virtual_model(&mut self, one: Placed<RawVirtual>) {
        let name = &one.value.name;
        if !is_name(name) || name.contains('/') || self.drafts.iter().any(|known| known.name == *name) {
            self.problems.push(
                one.problem(format!("virtual model \"{name}\": want a name of its own, without slash; {NAME_FORM}")),
            );
        }
        let file = self.folder.join(&one.value.policy);
        match self.reading.text(&file) {
            Ok(source) => self.drafts.push(Draft { place: one.place, name: one.value.name, file, source }),
            Err(error) => self.problems.push(
                one.problem(format!("virtual model \"{name}\": cannot read the policy {}: {error}", file.display())),
            ),
        }
    }

    /// Compiles the policies, now that every model's name is known.
    fn compile(&mut self) {
        let names = Names { any: self.partly, ..self.checked.names() };
        let models = self.checked.models.clone();
        let prices = self.checked.prices.clone();
        let mut calibrations = Calibrations::new(names, &models, self.options, self.reading).with(&prices);
        for Draft { place, name, file, source } in std::mem::take(&mut self.drafts) {
            let names = calibrations.names_for(&file, &source);
            let policy = match Policy::compile(&file.display().to_string(), &source, &names) {
                Ok(policy) => policy,
                Err(problems) => {
                    self.problems.extend(problems);
                    continue;
                }
            };
            let twin = self.checked.virtuals.iter().find(|one| one.policy.name() == policy.name() && one.file != file);
            if let Some(twin) = twin {
                let (called, other) = (policy.name(), twin.file.display());
                let message = format!(
                    "virtual model \"{name}\": {} and {other} are both called \"{called}\"; rename one",
                    file.display()
                );
                self.problems.push(Problem { place, message });
            }
            self.checked.virtuals.push(VirtualModel { name, file, policy });
        }
    }

    fn finish(mut self) -> Result<Checked, Vec<Problem>> {
        self.flags();
        self.overlay();
        self.more_virtuals();
        self.compile();
        if self.checked.listen == self.checked.admin && !self.checked.listen.ends_with(":0") {
            let message = format!("listen and admin are both {}; want two ports", self.checked.listen);
            self.problems.push(Problem { place: self.checked.place.clone(), message });
        }
        let blamed = |it: &Problem| it.message.starts_with("admin_token") || it.place == self.admin_place;
        if !self.problems.iter().any(blamed) {
            self.problems.extend(self.checked.open_door(&self.checked.admin, &self.admin_place));
        }
        self.checked.builtin_auto = !self.checked.virtuals.iter().any(|one| one.name == "auto");
        if self.checked.keys.tenants.is_empty() && !is_loopback(&self.checked.listen) {
            self.checked.warnings.push(format!(
                "listening on {} without [[tenant]]: everybody who can reach it may spend",
                self.checked.listen
            ));
        }
        if self.problems.is_empty() { Ok(self.checked) } else { Err(self.problems) }
    }

    /// The policies of the options; one that the file names too is the same policy.
    fn more_virtuals(&mut self) {
        let same = |one: &Path, other: &Path| std::fs::canonicalize(one).ok() == std::fs::canonicalize(other).ok();
        for (name, file) in &self.options.virtuals {
            match self.reading.text(file) {
                Ok(source) => {
                    let known =
                        self.drafts.iter().find(|draft| same(&draft.file, file)).map(|draft| draft.file.clone());
                    self.drafts.retain(|draft| draft.name != *name);
                    let file = known.unwrap_or_else(|| file.clone());
                    self.drafts.push(Draft { place: "--policy".to_owned(), name: name.clone(), file, source });
                }
                Err(error) => {
                    let message = format!("cannot read the policy {}: {error}", file.display());
                    self.problems.push(Problem { place: "--policy".to_owned(), message });
                }
            }
        }
    }

    /// Flags win over the file.
    fn flags(&mut self) {
        let options = self.options;
        for (name, text) in &options.models {
            match find_file(text, Path::new(""), &options.env, self.reading) {
                Ok(file) => {
                    let name = name.clone().unwrap_or_else(|| own_name(text, &file));
                    match local_name(&name) {
                        Some(name) => {
                            self.add_model(ModelConfig::new(ModelId::new(format!("local/{name}")), file), "--model")
                        }
                        None => {
                            let message = format!("model name \"{name}\": want NAME=FILE; {LOCAL_FORM}");
                            self.problems.push(Problem { place: "--model".to_owned(), message });
                        }
                    }
                }
                Err(message) => self.problems.push(Problem { place: "--model".to_owned(), message }),
            }
        }
        if let Some(listen) = &options.listen {
            self.checked.listen = self.address("--listen", listen);
        }
        if let Some(admin) = &options.admin {
            self.checked.admin = self.address("--admin", admin);
            self.admin_place = "--admin".to_owned();
        }
    }
}

/// With tenants, what a client sends is a key of ours: it must not be passed on.
fn leaked_keys(upstream: &Placed<RawUpstream>) -> Option<Problem> {
    let passes_on = upstream.value.api_key.as_ref().is_some_and(|key| key.client == Some(true));
    let message = format!(
        "upstream \"{}\": api_key = {{ client = true }} would send it the keys of [[tenant]]; \
         want {{ env = \"NAME\" }} or {{ file = \"PATH\" }}",
        upstream.value.name
    );
    passes_on.then(|| upstream.problem(message))
}

/// How long a reload may wait for an upstream to list its models.
pub(super) const DISCOVERY_TIMEOUT: Duration = Duration::from_secs(5);
