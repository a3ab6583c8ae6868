//! The endpoints of a model hub as Hugging Face has them: where a file's bytes are, how many, and their
//! checksum.
//!
//! Promises: the token goes to the hub's own origin and to no other, whatever a redirect says; a
//! refusal is told with the way out. Redirects are followed here, one by one, since the first answer
//! carries the size and checksum of the file (`x-linked-size`, `x-linked-etag`). Blocks.

use std::fmt;
use std::time::Duration;

use http::{HeaderMap, StatusCode, Uri};
use ureq::{Agent, Body};

use crate::request::Secret;

const HUB: &str = "https://huggingface.co";
const REDIRECTS: usize = 8;

/// A hub and who asks it.
pub(super) struct Hub {
    endpoint: String,
    token: Option<Secret>,
    agent: Agent,
}

/// What the hub says of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Offer {
    pub(super) bytes: u64,
    /// Of files in large-file storage, which models are.
    pub(super) sha256: Option<String>,
}

/// An answer at the end of all redirects.
struct Answer {
    response: http::Response<Body>,
    /// The headers of every answer on the way, the first wins.
    headers: HeaderMap,
}

impl Hub {
    /// The hub at this address, else Hugging Face.
    pub(super) fn new(endpoint: Option<&str>, token: Option<String>) -> Hub {
        let agent = Agent::config_builder()
            .max_redirects(0)
            .http_status_as_error(false)
            .user_agent(concat!("weir/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(Duration::from_secs(15)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .timeout_per_read(Some(Duration::from_secs(60)))
            .build()
            .new_agent();
        let endpoint = endpoint.unwrap_or(HUB).trim_end_matches('/').to_owned();
        Hub { endpoint, token: token.map(|token| Secret::new(token.trim())), agent }
    }

    /// Asks how large the file is and what its checksum is.
    pub(super) fn look(&self, repo: &str, file: &str) -> Result<Offer, String> {
        let answer = self.ask("HEAD", (repo, file), 0)?;
        self.check(&answer, (repo, file))?;
        let text = |name: &str| answer.headers.get(name).and_then(|value| value.to_str().ok());
        let size = text("x-linked-size").or_else(|| text("content-length")).and_then(|size| size.parse().ok());
        let bytes = size.ok_or_else(|| format!("{}: the hub does not say how large it is", self.url((repo, file))))?;
        let etag = text("x-linked-etag").or_else(|| text("etag")).unwrap_or_default();
        let etag = etag.trim_start_matches("W/").trim_matches('"');
        let is_sha256 = etag.len() == 64 && etag.bytes().all(|byte| byte.is_ascii_hexdigit());
        Ok(Offer { bytes, sha256: is_sha256.then(|| etag.to_ascii_lowercase()) })
    }

    /// The file's bytes from `from` on, or from 0 where the hub does not do that; tells which.
    pub(super) fn read(&self, repo: &str, file: &str, from: u64) -> Result<(u64, Body), String> {
        let answer = self.ask("GET", (repo, file), from)?;
        self.check(&answer, (repo, file))?;
        let from = if answer.response.status() == StatusCode::PARTIAL_CONTENT { from } else { 0 };
        Ok((from, answer.response.into_body()))
    }

    fn url(&self, (repo, file): (&str, &str)) -> String {
        format!("{}/{repo}/resolve/main/{file}", self.endpoint)
    }

    fn ask(&self, method: &str, asked: (&str, &str), from: u64) -> Result<Answer, String> {
        let mut url = self.url(asked);
        let mut headers = HeaderMap::new();
        for _ in 0..REDIRECTS {
            let mut request = http::Request::builder().method(method).uri(&url).header("accept-encoding", "identity");
            if from > 0 {
                request = request.header("range", format!("bytes={from}-"));
            }
            if let Some(token) = self.token.as_ref().filter(|_| origin(&url) == origin(&self.endpoint)) {
                request = request.header("authorization", format!("Bearer {}", token.expose()));
            }
            let request = request.body(()).map_err(|error| format!("{url}: {error}"))?;
            let response = self.agent.run(request).map_err(|error| format!("{url}: {error}"))?;
            for (name, value) in response.headers() {
                headers.entry(name).or_insert_with(|| value.clone());
            }
            let location = response.headers().get("location").and_then(|value| value.to_str().ok());
            match location.filter(|_| response.status().is_redirection()) {
                // The hub's own word is enough: where the bytes lie need not be asked.
                Some(_) if method == "HEAD" && headers.contains_key("x-linked-size") => {
                    return Ok(Answer { response, headers });
                }
                Some(location) => url = join(&url, location)?,
                None => return Ok(Answer { response, headers }),
            }
        }
        Err(format!("{}: more than {REDIRECTS} redirects", self.url(asked)))
    }

    fn check(&self, answer: &Answer, (repo, file): (&str, &str)) -> Result<(), String> {
        let status = answer.response.status();
        if status.is_success() || status.is_redirection() {
            return Ok(());
        }
        let page = format!("{}/{repo}", self.endpoint);
        let told = match (status.as_u16(), self.token.is_some()) {
            (401 | 403, false) => format!("{repo} is gated or private: accept its licence at {page} and set HF_TOKEN"),
            (401 | 403, true) => {
                format!("HF_TOKEN may not read {repo}: accept its licence at {page}, or use another token")
            }
            (404, _) => format!("no file {file} in {repo}; its files are listed at {page}/tree/main"),
            (429, _) => format!("{} asks for fewer requests; try again later, or set HF_TOKEN", self.endpoint),
            _ => format!("{} answers {status}; try again", self.endpoint),
        };
        let said = answer.headers.get("x-error-message").and_then(|value| value.to_str().ok());
        Err(said.map_or(told.clone(), |said| format!("{told} ({said})")))
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// Scheme, host and port, as far as the text is a URL.
fn origin(url: &str) -> Option<(String, String)> {
    let uri: Uri = url.parse().ok()?;
    Some((uri.scheme_str()?.to_owned(), uri.authority()?.as_str().to_ascii_lowercase()))
}

/// The address that a redirect names.
fn join(from: &str, location: &str) -> Result<String, String> {
    if location.starts_with("https://") || location.starts_with("http://") {
        return Ok(location.to_owned());
    }
    match origin(from) {
        Some((scheme, authority)) if location.starts_with('/') => Ok(format!("{scheme}://{authority}{location}")),
        _ => Err(format!("{from}: a redirect to \"{location}\", which is no address")),
    }
}
