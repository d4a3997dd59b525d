//! Which hypothesis belongs to which reference.

use super::{Segment, TranscriptFormat, Transcripts, ctm};
use std::collections::{HashMap, HashSet};

/// How many examples a message gives.
const EXAMPLES: usize = 5;

/// What to do where a reference has no hypothesis, or the reverse.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Missing {
    /// Refuse.
    #[default]
    Error,
    /// Leave it out of the score.
    Skip,
    /// Score the missing hypothesis as an empty one: its words are deletions.
    Empty,
}

/// A reference with its hypothesis.
#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    /// The reference's position among the references.
    pub index: usize,
    /// What was recognised.
    pub hypothesis: String,
}

/// Pairs by id: the ids as they are, then, for what is left on both sides, their last path component where it is
/// unique. A CTM is cut to an STM reference's segments. Returns the pairs in the references' order and what was odd.
pub fn pair(
    references: &Transcripts,
    hypotheses: &Transcripts,
    missing: Missing,
) -> Result<(Vec<Pair>, Vec<String>), String> {
    let (reference, hypothesis) = (references.path.display(), hypotheses.path.display());
    let segments = match (references.format, hypotheses.format) {
        (TranscriptFormat::Stm, TranscriptFormat::Ctm) => return pair_times(references, hypotheses, missing),
        (_, TranscriptFormat::Ctm) => &ctm::by_recording(&hypotheses.segments),
        _ => &hypotheses.segments,
    };
    for (path, segments) in [(&reference, &references.segments), (&hypothesis, segments)] {
        if segments.is_empty() {
            return Err(format!("{path} has no transcript in it"));
        }
        let mut seen = HashSet::new();
        if let Some(twice) = segments.iter().find(|segment| !seen.insert(segment.id.as_str())) {
            return Err(format!("{path} has the id `{}` twice; ids must be unique", twice.id));
        }
    }
    let by_line = [references.format, hypotheses.format].map(|format| format == TranscriptFormat::Txt);
    if by_line[0] != by_line[1] {
        return Err(format!(
            "{} is plain text without ids, {} is not: line by line works between two txt files only; \
             a file of another format can be named as FORMAT:PATH",
            if by_line[0] { &reference } else { &hypothesis },
            if by_line[0] { &hypothesis } else { &reference },
        ));
    }
    if by_line[0] && references.segments.len() != segments.len() {
        return Err(format!(
            "{reference} has {} lines and {hypothesis} {}: txt files are paired line by line",
            references.segments.len(),
            segments.len()
        ));
    }
    let matched = matches(&references.segments, segments);
    let used: HashSet<usize> = matched.iter().flatten().copied().collect();
    let without: Vec<&str> = (references.segments.iter().zip(&matched))
        .filter(|(_, hypothesis)| hypothesis.is_none())
        .map(|(segment, _)| segment.id.as_str())
        .collect();
    let unknown: Vec<&str> = (0..segments.len())
        .filter(|index| !used.contains(index))
        .map(|index| segments[index].id.as_str())
        .collect();
    let mut messages = Vec::new();
    if !without.is_empty() {
        let (count, all) = (without.len(), references.segments.len());
        messages.push(format!(
            "{hypothesis} lacks {count} of {all} utterances of {reference}: {}",
            examples(&without)
        ));
    }
    if !unknown.is_empty() {
        let (count, all) = (unknown.len(), segments.len());
        messages.push(format!(
            "{count} of {all} hypotheses of {hypothesis} have no reference: {}",
            examples(&unknown)
        ));
    }
    if missing == Missing::Error && !messages.is_empty() {
        let advice = "--missing empty counts missing hypotheses as deletions, --missing skip scores what is in both";
        return Err(format!("{}\n  {advice}", messages.join("\n  ")));
    }
    let pairs = (matched.iter().enumerate()).filter_map(|(index, hypothesis)| {
        let hypothesis = match hypothesis {
            Some(hypothesis) => segments[*hypothesis].text.clone(),
            None if missing == Missing::Empty => String::new(),
            None => return None,
        };
        Some(Pair { index, hypothesis })
    });
    Ok((pairs.collect(), messages))
}

/// CTM to STM. A recording without words is one in which nothing was recognised.
fn pair_times(
    references: &Transcripts,
    hypotheses: &Transcripts,
    missing: Missing,
) -> Result<(Vec<Pair>, Vec<String>), String> {
    let (texts, strangers) = ctm::into_segments(&hypotheses.segments, &references.segments);
    let mut messages = Vec::new();
    if !strangers.is_empty() {
        let strangers: Vec<&str> = strangers.iter().map(String::as_str).collect();
        messages.push(format!(
            "{} has words of recordings that {} has no segment of: {}",
            hypotheses.path.display(),
            references.path.display(),
            examples(&strangers)
        ));
        if missing == Missing::Error {
            return Err(format!("{}\n  --missing skip leaves them out", messages[0]));
        }
    }
    let pairs = texts.into_iter().enumerate();
    Ok((
        pairs.map(|(index, hypothesis)| Pair { index, hypothesis }).collect(),
        messages,
    ))
}

/// For each reference the hypothesis' position.
fn matches(references: &[Segment], hypotheses: &[Segment]) -> Vec<Option<usize>> {
    let by_id: HashMap<&str, usize> = (hypotheses.iter().map(|segment| segment.id.as_str()))
        .zip(0..)
        .collect();
    let mut matched: Vec<Option<usize>> = references
        .iter()
        .map(|segment| by_id.get(segment.id.as_str()).copied())
        .collect();
    let used: HashSet<usize> = matched.iter().flatten().copied().collect();
    let left_hypotheses: Vec<usize> = (0..hypotheses.len()).filter(|index| !used.contains(index)).collect();
    let left_references: Vec<usize> = (0..references.len())
        .filter(|index| matched[*index].is_none())
        .collect();
    let by_name = unique_names(hypotheses, &left_hypotheses);
    for (name, reference) in unique_names(references, &left_references) {
        matched[reference] = by_name.get(name).copied();
    }
    matched
}

/// The last path components that only one of these segments has.
fn unique_names<'a>(segments: &'a [Segment], among: &[usize]) -> HashMap<&'a str, usize> {
    let name = |index: usize| segments[index].id.rsplit(['/', '\\']).next().unwrap_or_default();
    let mut times: HashMap<&str, usize> = HashMap::new();
    for index in among {
        *times.entry(name(*index)).or_default() += 1;
    }
    let unique = among.iter().filter(|index| times[name(**index)] == 1);
    unique.map(|index| (name(*index), *index)).collect()
}

fn examples(ids: &[&str]) -> String {
    let more = match ids.len().saturating_sub(EXAMPLES) {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    let shown = &ids[..ids.len().min(EXAMPLES)];
    format!("{}{more}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn transcripts(format: TranscriptFormat, ids: &[&str]) -> Transcripts {
        let segment = |id: &&str| Segment {
            id: id.to_string(),
            text: format!("text of {id}"),
            ..Segment::default()
        };
        Transcripts::new(Path::new("file"), format, ids.iter().map(segment).collect())
    }

    #[test]
    fn by_id_then_by_name() {
        let json = |ids: &[&str]| transcripts(TranscriptFormat::Json, ids);
        let (pairs, odd) = pair(&json(&["a/x", "y", "z"]), &json(&["z", "/b/x", "y"]), Missing::Error).unwrap();
        let texts: Vec<&str> = pairs.iter().map(|pair| pair.hypothesis.as_str()).collect();
        assert_eq!((texts, odd.len()), (vec!["text of /b/x", "text of y", "text of z"], 0));
        // A name that is not unique matches nothing.
        let error = pair(&json(&["a/x", "b/x"]), &json(&["x", "u"]), Missing::Error).unwrap_err();
        assert!(error.contains("lacks 2 of 2 utterances of file: a/x, b/x"), "{error}");
        assert!(
            error.contains("2 of 2 hypotheses of file have no reference: x, u"),
            "{error}"
        );
        let (pairs, odd) = pair(&json(&["a", "b"]), &json(&["b"]), Missing::Empty).unwrap();
        assert_eq!((pairs.len(), pairs[0].hypothesis.as_str(), odd.len()), (2, "", 1));
        let (pairs, _) = pair(&json(&["a", "b"]), &json(&["b"]), Missing::Skip).unwrap();
        assert_eq!(pairs.iter().map(|pair| pair.index).collect::<Vec<_>>(), [1]);
        assert!(
            pair(&json(&["a", "a"]), &json(&["a"]), Missing::Skip)
                .unwrap_err()
                .contains("twice")
        );
    }

    #[test]
    fn lines_only_pair_with_lines() {
        let (txt, trn) = (TranscriptFormat::Txt, TranscriptFormat::Trn);
        let error = pair(&transcripts(txt, &["1"]), &transcripts(trn, &["1"]), Missing::Skip).unwrap_err();
        assert!(error.contains("without ids"), "{error}");
        let error = pair(&transcripts(txt, &["1", "2"]), &transcripts(txt, &["1"]), Missing::Skip).unwrap_err();
        assert!(error.contains("2 lines"), "{error}");
    }
}
