//! `aurist models pull`: from the hub into the cache.

use crate::cli::{Exit, Failure};
use crate::hub::{Cache, MAIN};
use clap::Args;

const NAMES: &str = "\
NAME is ORG/NAME on the hub, or one of these short names:
  wav2vec2-base-960h, wav2vec2-large-960h-lv60-self      facebook/...
  hubert-large-ls960-ft                                  facebook/...
  data2vec-audio-base-960h, data2vec-audio-large-960h    facebook/...
  wavlm-libri-clean-100h-base-plus                       patrickvonplaten/...
  whisper-tiny.en, whisper-base.en                       openai/...
  tiny.en, tiny, base.en, base, small.en, small, medium.en, medium, large-v2, large-v3, turbo,
  large-v3-turbo, distil-{small.en,medium.en,large-v3,large-v3.5}
                                                         Whispers as faster-whisper names them

Only what aurist reads is fetched: the configuration, the vocabulary and one format of the
weights. Every file's checksum is compared with the hub's. A pull that was interrupted goes on
where it stopped. The directory is printed on standard output, progress on standard error.

Environment, as Hugging Face's own tools read it:
  HF_HOME, HF_HUB_CACHE   where the cache is [default: ~/.cache/huggingface/hub]
  HF_TOKEN                for private and gated models (or the file `token` in HF_HOME)
  HF_ENDPOINT             another server than https://huggingface.co
  HF_HUB_OFFLINE=1        the same as --offline

Exit codes: 0 it is there, 1 it failed, 2 wrong usage, 130 interrupted.";

/// `aurist models pull`, as typed.
#[derive(Debug, Args)]
#[command(after_help = "Run with --help for short names and environment variables.", after_long_help = NAMES)]
pub(super) struct Arguments {
    /// The model's name on the hub, ORG/NAME, or a short name.
    name: String,

    /// A branch, a tag or a commit.
    #[arg(long, value_name = "REVISION", default_value = MAIN)]
    revision: String,

    /// Do not use the network: succeed if the model is in the cache.
    #[arg(long)]
    offline: bool,
}

/// Runs the command.
pub(super) fn run(typed: &Arguments) -> Result<Exit, Failure> {
    let name = super::names::repository(&typed.name).map_err(Failure::usage)?;
    let cache = Cache::standard().map_err(Failure::failed)?;
    if typed.offline || crate::hub::is_offline() {
        let there = cache.models().into_iter().find(|model| {
            let commit = model.path.as_deref().and_then(|path| path.file_name());
            let is_asked_for = model.revision == typed.revision || commit.is_some_and(|id| *id == *typed.revision);
            model.name == name && is_asked_for && model.state == crate::hub::State::Complete
        });
        let path = there
            .and_then(|model| model.path)
            .ok_or_else(|| Failure::failed(crate::hub::HubError::Offline(name.to_string())))?;
        super::print(&format!("{}\n", path.display()))?;
        return Ok(Exit::Done);
    }
    download(&cache, &name, &typed.revision)
}

#[cfg(not(feature = "hub"))]
fn download(_: &Cache, name: &crate::hub::RepoName, _: &str) -> Result<Exit, Failure> {
    Err(Failure::failed(format_args!(
        "this build cannot download {name}: it was made without the feature `hub`; put the model's files in a directory \
         and give it with -m DIR, or install a build with that feature"
    )))
}

#[cfg(feature = "hub")]
use online::download;

#[cfg(feature = "hub")]
mod online {
    use crate::cli::interrupt::Interrupt;
    use crate::cli::models::{print, size};
    use crate::cli::{Exit, Failure, tell};
    use crate::hub::{Cache, Client, Progress, RepoName};
    use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
    use std::io::IsTerminal;

    pub(super) fn download(cache: &Cache, name: &RepoName, revision: &str) -> Result<Exit, Failure> {
        let interrupt = Interrupt::listen(|| {})?;
        let mut shown = Shown {
            interrupt,
            bar: None,
            is_terminal: std::io::stderr().is_terminal(),
        };
        let pulled = crate::hub::pull(&Client::from_environment(), cache, name, revision, &mut shown);
        shown.end();
        match pulled.map_err(Failure::failed)? {
            Some(path) => {
                print(&format!("{}\n", path.display()))?;
                if revision == crate::hub::MAIN {
                    tell(format_args!("use it with: aurist transcribe FILE -m {name}"));
                }
                Ok(Exit::Done)
            }
            None => {
                tell("interrupted; the same command goes on where it stopped");
                Ok(Exit::Interrupted)
            }
        }
    }

    /// A bar a file on a terminal, a line a file elsewhere.
    struct Shown {
        interrupt: Interrupt,
        bar: Option<ProgressBar>,
        is_terminal: bool,
    }

    impl Shown {
        fn end(&mut self) {
            if let Some(bar) = self.bar.take() {
                bar.abandon();
            }
        }
    }

    impl Progress for Shown {
        fn begin(&mut self, file: &str, bytes: u64, here: u64) {
            self.end();
            if self.is_terminal {
                let target = ProgressDrawTarget::stderr_with_hz(5);
                let bar = ProgressBar::with_draw_target(Some(bytes), target).with_message(file.to_string());
                let style = ProgressStyle::with_template(
                    "{msg:26!} {bar:20} {decimal_bytes:>9} of {decimal_total_bytes:9} {eta:>4}",
                );
                if let Ok(style) = style {
                    bar.set_style(style);
                }
                bar.set_position(here);
                // What was here before took no time.
                bar.reset_eta();
                self.bar = Some(bar);
            } else if here > 0 {
                tell(format_args!(
                    "{file}: {}, of which {} are here",
                    size(bytes),
                    size(here)
                ));
            } else {
                tell(format_args!("{file}: {}", size(bytes)));
            }
        }

        fn arrived(&mut self, bytes: u64) {
            if let Some(bar) = &self.bar {
                bar.inc(bytes);
            }
        }

        fn is_interrupted(&self) -> bool {
            self.interrupt.is_set()
        }
    }
}
