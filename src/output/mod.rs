//! Transcripts out, in the formats people use.
