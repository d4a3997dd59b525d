//! Fetching a model's files into the cache: what is there is not fetched again, what was begun is gone on with, and
//! nothing counts as there before its checksum is right.

use super::client::FileInfo;
use super::{Cache, Client, HubError, RepoName};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

/// How often a download looks up from waiting for bytes, and how long it waits for any.
const LOOK_UP: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(60);

/// Files beside the weights, fetched where there are.
const SMALL_FILES: [&str; 10] = [
    "config.json",
    "preprocessor_config.json",
    "tokenizer_config.json",
    "vocab.json",
    "tokenizer.json",
    "generation_config.json",
    "added_tokens.json",
    "adaptation.json",
    "ctc_vocab.json",
    "ctc_head.safetensors",
];

/// Told how a download gets on.
pub trait Progress {
    /// A file begins; so many of its bytes are here already.
    fn begin(&mut self, file: &str, size: u64, here: u64);
    /// More bytes arrived.
    fn arrived(&mut self, bytes: u64);
    /// Whether the user wants to stop.
    fn is_interrupted(&self) -> bool;
}

/// Fetches what aurist needs of a model, and returns the directory that holds it. `Ok(None)`: interrupted; the same
/// call goes on where it stopped.
pub fn pull(
    client: &Client,
    cache: &Cache,
    name: &RepoName,
    revision: &str,
    progress: &mut dyn Progress,
) -> Result<Option<PathBuf>, HubError> {
    super::check_revision(revision)?;
    let listed = client.files(name, revision)?;
    let files = wanted(&listed).ok_or_else(|| HubError::NoModel(name.to_string()))?;
    let repo = cache.repo(name);
    let Some(_alone) = alone(cache, name, progress)? else {
        return Ok(None);
    };
    let mut snapshot = None;
    for file in files {
        if progress.is_interrupted() {
            return Ok(None);
        }
        let info = client.info(name, revision, file)?;
        let blob = repo.join("blobs").join(&info.etag);
        if !fetch(client, &info, file, &blob, progress)? {
            return Ok(None);
        }
        let folder = repo.join("snapshots").join(&info.commit);
        link(&blob, &info.etag, &folder.join(file))?;
        snapshot = Some((folder, info.commit));
    }
    let (folder, commit) = snapshot.ok_or_else(|| HubError::NoModel(name.to_string()))?;
    // Last: a revision that is named is complete.
    if revision != commit {
        let reference = repo.join("refs").join(revision);
        make_folder(&reference)?;
        std::fs::write(&reference, commit).map_err(HubError::disk(&reference))?;
    }
    Ok(Some(folder))
}

/// Two pulls of one model: the second waits here, and then finds all of it done. `Ok(None)`: interrupted. The lock
/// lies where Hugging Face keeps its own, and is let go when the file is dropped.
fn alone(cache: &Cache, name: &RepoName, progress: &dyn Progress) -> Result<Option<File>, HubError> {
    let path = cache.root().join(".locks").join(name.folder()).join("aurist.lock");
    make_folder(&path)?;
    let disk = || HubError::disk(&path);
    let file = File::create(&path).map_err(disk())?;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Some(file)),
            Err(TryLockError::WouldBlock) if progress.is_interrupted() => return Ok(None),
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOOK_UP),
            // A file system without locks: alone as far as anyone can tell.
            Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => return Ok(Some(file)),
            Err(TryLockError::Error(error)) => return Err(disk()(error)),
        }
    }
}

/// Of a repository's files, those to fetch: the best format of weights only.
fn wanted(listed: &[String]) -> Option<Vec<&str>> {
    // A name with a folder in it is none of a model's.
    let listed: Vec<&str> = listed
        .iter()
        .map(String::as_str)
        .filter(|name| is_plain(name))
        .collect();
    let has = |name: &str| listed.contains(&name);
    let shards = |stem: &str, ending: &str| -> Vec<&str> {
        let start = format!("{stem}-");
        let is_shard = |name: &&&str| name.starts_with(&start) && name.contains("-of-") && name.ends_with(ending);
        listed.iter().filter(is_shard).copied().collect()
    };
    let weights: Vec<&str> = if has("model.safetensors") {
        vec!["model.safetensors"]
    } else if has("model.safetensors.index.json") {
        [vec!["model.safetensors.index.json"], shards("model", ".safetensors")].concat()
    } else if has("pytorch_model.bin") {
        vec!["pytorch_model.bin"]
    } else if has("pytorch_model.bin.index.json") {
        [vec!["pytorch_model.bin.index.json"], shards("pytorch_model", ".bin")].concat()
    } else if has("model.bin") {
        vec!["model.bin"]
    } else {
        return None;
    };
    let small = SMALL_FILES.into_iter().filter(|name| has(name));
    Some(small.chain(weights).collect())
}

fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', ':'])
}

fn make_folder(file: &Path) -> Result<(), HubError> {
    match file.parent() {
        Some(folder) => std::fs::create_dir_all(folder).map_err(HubError::disk(folder)),
        None => Ok(()),
    }
}

/// One file's content, checked, under its checksum's name; false when interrupted.
fn fetch(
    client: &Client,
    info: &FileInfo,
    name: &str,
    blob: &Path,
    progress: &mut dyn Progress,
) -> Result<bool, HubError> {
    if std::fs::metadata(blob).is_ok_and(|metadata| metadata.len() == info.size) {
        return Ok(true);
    }
    make_folder(blob)?;
    let partial = blob.with_file_name(format!("{}.incomplete", info.etag));
    let disk = || HubError::disk(&partial);
    let mut options = OpenOptions::new();
    let mut file = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&partial)
        .map_err(disk())?;
    let mut checksum = Checksum::new(info);
    let mut here = checksum.add_all(&mut file).map_err(disk())?;
    if here > info.size {
        here = restart(&mut file, &mut checksum, info).map_err(disk())?;
    }
    progress.begin(name, info.size, here);
    if here < info.size {
        let (content, continues) = client.content(info, here)?;
        if here > 0 && !continues {
            here = restart(&mut file, &mut checksum, info).map_err(disk())?;
            progress.begin(name, info.size, here);
        }
        let arriving = read_aside(content);
        let broken = |reason: String| HubError::Unreachable {
            url: name.into(),
            reason,
        };
        let mut waiting_since = Instant::now();
        while here < info.size {
            if progress.is_interrupted() {
                file.sync_all().map_err(disk())?;
                return Ok(false);
            }
            let piece = match arriving.recv_timeout(LOOK_UP) {
                Ok(piece) => piece.map_err(|error| broken(error.to_string()))?,
                Err(RecvTimeoutError::Timeout) if waiting_since.elapsed() < PATIENCE => continue,
                Err(RecvTimeoutError::Timeout) => {
                    return Err(broken(format!("nothing arrived for {} s", PATIENCE.as_secs())));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(broken(format!("it broke off after {here} of {} bytes", info.size)));
                }
            };
            waiting_since = Instant::now();
            // A server that sends more than it said is stopped at what it said.
            let part = &piece[..piece.len().min((info.size - here) as usize)];
            file.write_all(part).map_err(disk())?;
            checksum.add(part);
            here += part.len() as u64;
            progress.arrived(part.len() as u64);
        }
    }
    let found = checksum.finish();
    if found != info.etag {
        let _ = std::fs::remove_file(&partial);
        return Err(HubError::Damaged {
            file: name.into(),
            found,
            expected: info.etag.clone(),
        });
    }
    file.sync_all().map_err(disk())?;
    std::fs::rename(&partial, blob).map_err(HubError::disk(blob))?;
    Ok(true)
}

/// Reads on a thread of its own, so that a silent server keeps nobody from noticing Ctrl-C.
fn read_aside(mut content: impl Read + Send + 'static) -> Receiver<std::io::Result<Vec<u8>>> {
    let (pieces, arriving) = sync_channel(4);
    std::thread::spawn(move || {
        loop {
            let mut buffer = vec![0; 1 << 16];
            let piece = match content.read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => {
                    buffer.truncate(count);
                    Ok(buffer)
                }
                Err(error) => Err(error),
            };
            let failed = piece.is_err();
            if pieces.send(piece).is_err() || failed {
                return;
            }
        }
    });
    arriving
}

fn restart(file: &mut File, checksum: &mut Checksum, info: &FileInfo) -> std::io::Result<u64> {
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    *checksum = Checksum::new(info);
    Ok(0)
}

/// The checksum that an etag states: SHA-256 of large files, git's of the others.
enum Checksum {
    Sha256(Sha256),
    Git(Sha1),
}

impl Checksum {
    fn new(info: &FileInfo) -> Self {
        if info.etag.len() == 64 {
            Self::Sha256(Sha256::new())
        } else {
            let header = format!("blob {}\0", info.size);
            Self::Git(Sha1::new_with_prefix(header.as_bytes()))
        }
    }

    fn add(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Git(hasher) => hasher.update(bytes),
        }
    }

    /// All of a file, from its start; returns its length and leaves it at its end.
    fn add_all(&mut self, file: &mut File) -> std::io::Result<u64> {
        let (mut len, mut buffer) = (0, vec![0; 1 << 16]);
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(len),
                count => {
                    self.add(&buffer[..count]);
                    len += count as u64;
                }
            }
        }
    }

    fn finish(self) -> String {
        let bytes: Vec<u8> = match self {
            Self::Sha256(hasher) => hasher.finalize().to_vec(),
            Self::Git(hasher) => hasher.finalize().to_vec(),
        };
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// A snapshot's file: a link to the blob, or a copy where the system has no links. It is made under another name and
/// moved into its place: whoever else does the same at that moment (Hugging Face's own client keeps no lock of ours)
/// finds the old one or the new one, and nothing is ever written through a link into the blob.
fn link(blob: &Path, etag: &str, to: &Path) -> Result<(), HubError> {
    if std::fs::metadata(to).is_ok_and(|there| std::fs::metadata(blob).is_ok_and(|blob| blob.len() == there.len())) {
        return Ok(());
    }
    make_folder(to)?;
    let file_name = to.file_name().unwrap_or_default().to_string_lossy();
    let aside = to.with_file_name(format!(
        ".{file_name}.{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    let _ = std::fs::remove_file(&aside);
    let linked = {
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(Path::new("../../blobs").join(etag), &aside).is_ok()
        }
        #[cfg(not(unix))]
        {
            let _ = etag;
            false
        }
    };
    let made = if linked {
        Ok(())
    } else {
        std::fs::copy(blob, &aside).map(drop)
    };
    made.and_then(|()| std::fs::rename(&aside, to)).map_err(|error| {
        let _ = std::fs::remove_file(&aside);
        HubError::disk(to)(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two at once, the slower one found the name taken and copied the blob onto itself through the link: empty.
    #[test]
    fn links_made_at_once_leave_the_blob_whole() {
        let folder = tempfile::tempdir().unwrap();
        let blob = folder.path().join("blobs/abc");
        make_folder(&blob).unwrap();
        std::fs::write(&blob, b"content").unwrap();
        for round in 0..200 {
            let to = folder.path().join(format!("snapshots/{round}/config.json"));
            let start = std::sync::Barrier::new(2);
            std::thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| {
                        start.wait();
                        link(&blob, "abc", &to).unwrap();
                    });
                }
            });
            assert_eq!(std::fs::read(&to).unwrap(), b"content", "round {round}");
            assert_eq!(
                std::fs::read_dir(to.parent().unwrap()).unwrap().count(),
                1,
                "nothing left aside"
            );
        }
    }
}
