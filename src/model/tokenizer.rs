//! Whisper's tokens: the byte-level BPE of tokenizer.json, and the tokens that steer the decoder.

use super::ModelError;
use std::collections::BTreeSet;

const FILE: &str = "tokenizer.json";

/// What never stands in speech, such as brackets around a speaker's name: tokens of these are suppressed.
const SYMBOLS: &str = "\" # ( ) * + / : ; < = > @ [ \\ ] ^ _ ` { | } ~ 「 」 『 』 << >> <<< >>> -- --- -( -[ (' (\" (( )) ((( ))) [[ ]] {{ }} ♪♪ ♪♪♪";
/// Where these are several tokens, the first is suppressed: it begins no letter.
const MUSIC: &str = "♩ ♪ ♫ ♬ ♭ ♮ ♯";

/// A Whisper's tokens.
#[derive(Clone)]
pub struct Tokenizer {
    inner: Box<tokenizers::Tokenizer>,
    /// Ends a transcript; every token below it is text.
    pub eot: u32,
    /// Begins a transcript.
    pub sot: u32,
    /// Stands before the text that came before.
    pub sot_prev: u32,
    /// "There is no speech."
    pub no_speech: u32,
    /// Asks for text without timestamps; the token after it is the first timestamp, 0.00.
    pub no_timestamps: u32,
    /// Asks for English, whatever was spoken.
    pub translate: u32,
    /// Asks for what was spoken.
    pub transcribe: u32,
    sot_lm: Option<u32>,
    /// Language codes and their tokens; empty where the model knows English only.
    pub languages: Vec<(String, u32)>,
    /// Number of tokens, V.
    pub len: usize,
}

impl Tokenizer {
    /// Parses tokenizer.json for a model of so many tokens.
    pub fn parse(bytes: &[u8], len: usize, multilingual: bool) -> Result<Self, ModelError> {
        let inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(|error| ModelError::invalid(FILE, error))?;
        let find = |name: &str| inner.token_to_id(name).filter(|id| (*id as usize) < len);
        let id = |name: &str| find(name).ok_or_else(|| ModelError::invalid(FILE, format!("it has no token {name}")));
        let no_speech = find("<|nospeech|>").map_or_else(|| id("<|nocaptions|>"), Ok)?;
        let (sot, translate) = (id("<|startoftranscript|>")?, id("<|translate|>")?);
        let transcribe = id("<|transcribe|>")?;
        let mut languages = Vec::new();
        if multilingual {
            for token in sot + 1..translate.min(transcribe) {
                let name = inner.id_to_token(token).unwrap_or_default();
                if let Some(code) = name.strip_prefix("<|").and_then(|name| name.strip_suffix("|>")) {
                    languages.push((code.to_string(), token));
                }
            }
        }
        let no_timestamps = id("<|notimestamps|>")?;
        let (eot, sot_prev) = (id("<|endoftext|>")?, id("<|startofprev|>")?);
        // The decoder's rules count on this order.
        if !(eot < sot && sot < no_timestamps && (no_timestamps as usize) + 1 < len) {
            return Err(ModelError::invalid(
                FILE,
                "its special tokens are not in Whisper's order",
            ));
        }
        Ok(Self {
            sot_lm: find("<|startoflm|>"),
            inner: Box::new(inner),
            eot,
            sot,
            sot_prev,
            no_speech,
            no_timestamps,
            translate,
            transcribe,
            languages,
            len,
        })
    }

    /// The token of the timestamp 0.00; the others, 20 ms apart, follow.
    pub fn timestamp_begin(&self) -> u32 {
        self.no_timestamps + 1
    }

    /// Text as tokens.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let encoded = self.inner.encode_fast(text, false);
        let tokens = encoded.map(|encoding| encoding.get_ids().to_vec());
        // A tokenizer may know more tokens than the model.
        let mut tokens = tokens.unwrap_or_default();
        tokens.retain(|token| (*token as usize) < self.len);
        tokens
    }

    /// The text of tokens; those that are no text are left out. Bytes that are no UTF-8 become U+FFFD.
    pub fn decode(&self, tokens: &[u32]) -> String {
        let text: Vec<u32> = tokens.iter().copied().filter(|token| *token < self.eot).collect();
        self.inner.decode(&text, true).unwrap_or_default()
    }

    /// Tokens of brackets, notes and the like, which annotate and are not spoken; sorted.
    pub fn non_speech(&self) -> Vec<u32> {
        let mut tokens = BTreeSet::new();
        // A hyphen and an apostrophe may stand between words, but begin none.
        tokens.extend(self.encode(" -").first());
        tokens.extend(self.encode(" '").first());
        let symbols = SYMBOLS.split(' ').map(|symbol| (symbol, false));
        for (symbol, is_music) in symbols.chain(MUSIC.split(' ').map(|symbol| (symbol, true))) {
            for spelled in [symbol.to_string(), format!(" {symbol}")] {
                let encoded = self.encode(&spelled);
                if let Some(first) = encoded.first().filter(|_| is_music || encoded.len() == 1) {
                    tokens.insert(*first);
                }
            }
        }
        tokens.into_iter().collect()
    }

    /// Tokens that steer the decoder and are never its output; sorted.
    pub fn steering(&self) -> Vec<u32> {
        let tokens = [self.transcribe, self.translate, self.sot, self.sot_prev, self.no_speech];
        let tokens: BTreeSet<u32> = tokens.into_iter().chain(self.sot_lm).collect();
        tokens.into_iter().collect()
    }

    /// The token of a language, by its code.
    pub fn language(&self, code: &str) -> Option<u32> {
        let found = self.languages.iter().find(|(name, _)| name == code);
        found.map(|(_, token)| *token)
    }
}
