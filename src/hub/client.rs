//! Requests to the hub.

use super::{HubError, RepoName};
use serde::Deserialize;
use std::io::Read;
use std::time::Duration;
use ureq::http::{HeaderMap, Response};
use ureq::{Agent, Body};

/// A list of files is a few kilobytes.
const LARGEST_LIST: u64 = 16 << 20;
/// A file's place moves at most this often.
const MOST_REDIRECTS: usize = 5;

/// A server that speaks the hub's protocol.
pub struct Client {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
}

/// What the hub says about a file before it is fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileInfo {
    pub(super) commit: String,
    /// SHA-256 of the content, or SHA-1 of git's blob of it, hexadecimal.
    pub(super) etag: String,
    pub(super) size: u64,
    /// Where the content is.
    location: String,
}

#[derive(Deserialize)]
struct Listing {
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

impl Client {
    /// HF_ENDPOINT's server or huggingface.co, with HF_TOKEN's token or the one in HF_HOME/token.
    pub fn from_environment() -> Self {
        let endpoint = std::env::var("HF_ENDPOINT")
            .ok()
            .filter(|endpoint| !endpoint.is_empty());
        let saved = || std::fs::read_to_string(super::home()?.join("token")).ok();
        let token = std::env::var("HF_TOKEN")
            .ok()
            .filter(|token| !token.is_empty())
            .or_else(saved);
        Self::new(endpoint.as_deref().unwrap_or("https://huggingface.co"), token)
    }

    /// A server at another place.
    pub fn new(endpoint: &str, token: Option<String>) -> Self {
        let config = Agent::config_builder()
            .user_agent(format!("aurist/{}", crate::VERSION))
            .timeout_connect(Some(Duration::from_secs(30)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .http_status_as_error(false)
            // By hand: the checksums stand in the answer that redirects, and the token must not go elsewhere.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .build();
        Self {
            agent: config.into(),
            endpoint: endpoint.trim_end_matches('/').into(),
            token: token
                .map(|token| token.trim().to_string())
                .filter(|token| !token.is_empty()),
        }
    }

    /// Whether a place is the hub's own: nobody else may see the token.
    fn is_hub(&self, url: &str) -> bool {
        url.strip_prefix(&self.endpoint)
            .is_some_and(|rest| rest.starts_with('/'))
    }

    fn get(&self, url: &str, from: u64) -> Result<Response<Body>, HubError> {
        let mut request = self.agent.get(url);
        if let (Some(token), true) = (&self.token, self.is_hub(url)) {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        if from > 0 {
            request = request.header("Range", format!("bytes={from}-"));
        }
        // A compressed body would have another length and checksum than the file.
        let answer = request.header("Accept-Encoding", "identity").call();
        answer.map_err(|error| HubError::Unreachable {
            url: url.into(),
            reason: error.to_string(),
        })
    }

    /// The same, going on to wherever the answer says; the place where it ended comes with it.
    fn follow(&self, mut url: String, from: u64) -> Result<(String, Response<Body>), HubError> {
        for _ in 0..MOST_REDIRECTS {
            let response = self.get(&url, from)?;
            let status = response.status().as_u16();
            if let (300..=399, Some(to)) = (status, text(response.headers(), "location")) {
                url = absolute(&url, to);
                continue;
            }
            check_status(&url, status)?;
            return Ok((url, response));
        }
        Err(too_many_redirections(url))
    }

    /// The names of a repository's files.
    pub(super) fn files(&self, name: &RepoName, revision: &str) -> Result<Vec<String>, HubError> {
        let revision = percent_encoded(revision);
        let url = format!("{}/api/models/{name}/revision/{revision}", self.endpoint);
        // A renamed repository is answered with where it is now.
        let (url, response) = self.follow(url, 0)?;
        let mut text = Vec::new();
        let body = response
            .into_body()
            .into_reader()
            .take(LARGEST_LIST)
            .read_to_end(&mut text);
        body.map_err(|error| HubError::Unreachable {
            url: url.clone(),
            reason: error.to_string(),
        })?;
        let listing: Listing = serde_json::from_slice(&text).map_err(|error| HubError::Answer {
            url,
            reason: format!("the answer is no list of files: {error}"),
        })?;
        Ok(listing.siblings.into_iter().map(|file| file.rfilename).collect())
    }

    /// What the hub says of a file.
    pub(super) fn info(&self, name: &RepoName, revision: &str, file: &str) -> Result<FileInfo, HubError> {
        let (revision, file) = (percent_encoded(revision), percent_encoded(file));
        let mut url = format!("{}/{name}/resolve/{revision}/{file}", self.endpoint);
        for _ in 0..MOST_REDIRECTS {
            let response = self.get(&url, 0)?;
            let (status, headers) = (response.status().as_u16(), response.headers());
            let location = text(headers, "location").map(|to| absolute(&url, to));
            let linked = text(headers, "x-linked-etag");
            // A renamed repository: ask again there.
            if let (300..=399, Some(to), None) = (status, &location, linked) {
                url.clone_from(to);
                continue;
            }
            if !(300..=399).contains(&status) {
                check_status(&url, status)?;
            }
            let answer = |reason: &str| HubError::Answer {
                url: url.clone(),
                reason: reason.into(),
            };
            let etag = linked
                .or_else(|| text(headers, "etag"))
                .map(clean_etag)
                .unwrap_or_default();
            let is_checksum = [40, 64].contains(&etag.len()) && etag.bytes().all(|byte| byte.is_ascii_hexdigit());
            if !is_checksum {
                return Err(answer("the answer states no checksum"));
            }
            let size = text(headers, "x-linked-size").or_else(|| text(headers, "content-length"));
            let commit = text(headers, "x-repo-commit").unwrap_or_default();
            if commit.is_empty() || !commit.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
                return Err(answer("the answer states no commit"));
            }
            return Ok(FileInfo {
                commit: commit.into(),
                etag,
                size: size
                    .and_then(|size| size.parse().ok())
                    .ok_or_else(|| answer("the answer states no size"))?,
                location: location.unwrap_or_else(|| url.clone()),
            });
        }
        Err(too_many_redirections(url))
    }

    /// A file's content from a byte on, and whether the server did start there.
    pub(super) fn content(&self, info: &FileInfo, from: u64) -> Result<(impl Read + Send + use<>, bool), HubError> {
        let (_, response) = self.follow(info.location.clone(), from)?;
        let start = text(response.headers(), "content-range")
            .and_then(|range| range.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok());
        let continues = response.status().as_u16() == 206 && start == Some(from);
        Ok((response.into_body().into_reader(), continues))
    }
}

/// Where an answer from `base` leads to.
fn absolute(base: &str, to: &str) -> String {
    let scheme = base.find("://").map_or(0, |at| at + 3);
    if to.starts_with("//") {
        return format!("{}{}", &base[..scheme.saturating_sub(2)], to);
    }
    if !to.starts_with('/') {
        return to.into();
    }
    let host = base[scheme..].find('/').map_or(base.len(), |at| scheme + at);
    format!("{}{to}", &base[..host])
}

fn too_many_redirections(url: String) -> HubError {
    HubError::Answer {
        url,
        reason: "too many redirections".into(),
    }
}

/// One segment of a URL's path.
fn percent_encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn clean_etag(etag: &str) -> String {
    etag.trim_start_matches("W/").trim_matches('"').to_lowercase()
}

fn check_status(url: &str, status: u16) -> Result<(), HubError> {
    let hint = match status {
        200..=299 => return Ok(()),
        401 | 403 => ": the model is private, gated or does not exist; set HF_TOKEN if you have access",
        404 => ": there is no such model, revision or file",
        429 => ": too many requests; wait a little",
        500.. => ": a fault of the server's; try again later",
        _ => "",
    };
    Err(HubError::Status {
        url: url.into(),
        status,
        hint,
    })
}
