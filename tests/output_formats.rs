//! Every format, whatever the transcript: nothing is lost, nothing breaks the syntax, time only goes forward.

use aurist::output::{Document, Format};
use aurist::{AdaptationConfig, ModelInfo, Transcript, Utterance, Word};
use proptest::prelude::*;

fn utterance(text: &str, start: f64, end: f64, words: Vec<Word>) -> Utterance {
    Utterance {
        text: text.to_string(),
        unadapted_text: text.to_string(),
        start,
        end,
        words,
        entropy_before: Some(0.5),
        entropy_after: Some(0.25),
        losses: vec![0.5, 0.4],
        steps: 2,
        rollbacks: 0,
        forwards: 3,
        backwards: 2,
        carried: None,
        stopped: None,
        guard: None,
        evidence: None,
        compute_seconds: 0.1,
        real_time_factor: 0.1,
        decoding: None,
    }
}

fn transcript(utterances: Vec<Utterance>) -> Transcript {
    let duration = utterances.last().map_or(0.0, |utterance| utterance.end);
    Transcript {
        utterances,
        duration,
        language: None,
    }
}

fn render(format: Format, transcript: &Transcript) -> String {
    with_document(transcript, |document| format.render(document))
}

fn with_document(transcript: &Transcript, f: impl Fn(&Document<'_>) -> String) -> String {
    let model = ModelInfo {
        name: "model".into(),
        identity: "0123".into(),
        architecture: "WhisperForCTC".into(),
        parameters: 1,
        vocabulary: 32,
    };
    f(&Document {
        file: "dir/my talk.wav",
        transcript,
        model: &model,
        settings: &AdaptationConfig::paper(),
        stream: None,
        decoding: None,
        warnings: &[],
    })
}

/// `text` cut into words that follow one another through the time given.
fn spoken(text: &str, start: f64, each: f64) -> Utterance {
    let texts: Vec<&str> = text.split(' ').collect();
    let at = |i: usize| start + each * i as f64;
    let word = |(i, text): (usize, &&str)| Word {
        word: text.to_string(),
        start: at(i),
        end: at(i + 1),
        confidence: 0.9,
    };
    utterance(
        text,
        start,
        at(texts.len()),
        texts.iter().enumerate().map(word).collect(),
    )
}

#[derive(Debug, PartialEq)]
struct Cue {
    start: u64,
    end: u64,
    lines: Vec<String>,
}

fn time(text: &str, separator: char) -> u64 {
    let (clock, ms) = text.split_once(separator).expect("milliseconds");
    assert_eq!(ms.len(), 3);
    let seconds = clock
        .split(':')
        .fold(0, |sum, part| sum * 60 + part.parse::<u64>().expect("a number"));
    seconds * 1000 + ms.parse::<u64>().expect("a number")
}

fn cue(block: &str, separator: char) -> Cue {
    let (times, text) = block.split_once('\n').expect("a time line and a text");
    let (start, end) = times.split_once(" --> ").expect("an arrow");
    Cue {
        start: time(start, separator),
        end: time(end, separator),
        lines: text.lines().map(String::from).collect(),
    }
}

fn parse_srt(text: &str) -> Vec<Cue> {
    let blocks = text.split_terminator("\n\n").enumerate();
    let numbered = blocks.map(|(i, block)| {
        let (number, rest) = block.split_once('\n').expect("a number line");
        assert_eq!(number, (i + 1).to_string());
        cue(rest, ',')
    });
    numbered.collect()
}

fn parse_vtt(text: &str) -> Vec<Cue> {
    let body = text.strip_prefix("WEBVTT\n\n").expect("the header");
    let mut cues: Vec<Cue> = body.split_terminator("\n\n").map(|block| cue(block, '.')).collect();
    for line in cues.iter_mut().flat_map(|cue| &mut cue.lines) {
        assert!(!line.contains(['<', '>']), "unescaped: {line}");
        *line = line.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    }
    cues
}

fn check_cues(cues: &[Cue]) {
    for cue in cues {
        assert!(cue.start < cue.end, "{cue:?}");
        assert!((1..=2).contains(&cue.lines.len()), "{cue:?}");
        assert!(
            cue.lines.iter().all(|line| (1..=42).contains(&line.chars().count())),
            "{cue:?}"
        );
        assert!(cue.end - cue.start <= 7000, "{cue:?}");
    }
    assert!(cues.windows(2).all(|pair| pair[0].end <= pair[1].start), "{cues:?}");
}

fn text_of(cues: &[Cue]) -> String {
    cues.iter()
        .flat_map(|cue| &cue.lines)
        .cloned()
        .collect::<Vec<_>>()
        .join(" ")
}

fn squeezed(text: &str) -> String {
    let words = text
        .split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn an_empty_transcript_is_an_empty_output_of_its_format() {
    let empty = transcript(Vec::new());
    let expected = [
        (Format::Txt, ""),
        (Format::Srt, ""),
        (Format::Vtt, "WEBVTT\n\n"),
        (Format::Ctm, ""),
    ];
    for (format, expected) in expected {
        assert_eq!(render(format, &empty), expected);
    }
    assert_eq!(render(Format::Tsv, &empty), "start\tend\ttext\n");
    assert!(render(Format::Json, &empty).contains("\"utterances\": []"));
    assert_eq!(
        with_document(&empty, |document| Format::Txt.render_labelled(document)),
        "dir/my talk.wav\t\n"
    );
}

#[test]
fn a_silent_utterance_leaves_no_trace_in_text_formats() {
    let silent = transcript(vec![utterance(" ", 0.0, 1.0, Vec::new())]);
    assert_eq!(render(Format::Txt, &silent), "");
    assert_eq!(render(Format::Srt, &silent), "");
    assert_eq!(render(Format::Tsv, &silent).lines().count(), 1);
}

#[test]
fn the_formats_look_as_their_readers_expect() {
    let one = transcript(vec![spoken("HELLO <WORLD> & ALL", 3661.5, 0.5)]);
    assert_eq!(render(Format::Txt, &one), "HELLO <WORLD> & ALL\n");
    assert_eq!(
        render(Format::Srt, &one),
        "1\n01:01:01,500 --> 01:01:03,500\nHELLO <WORLD> & ALL\n\n"
    );
    assert_eq!(
        render(Format::Vtt, &one),
        "WEBVTT\n\n01:01:01.500 --> 01:01:03.500\nHELLO &lt;WORLD&gt; &amp; ALL\n\n"
    );
    assert_eq!(
        render(Format::Tsv, &one),
        "start\tend\ttext\n3661500\t3663500\tHELLO <WORLD> & ALL\n"
    );
    let ctm = render(Format::Ctm, &one);
    assert_eq!(ctm.lines().next(), Some("my_talk 1 3661.500 0.500 HELLO 0.9000"));
    assert_eq!(ctm.lines().count(), 4);
}

#[test]
fn text_without_words_gets_its_cues_from_the_utterances_time() {
    let long = "MANY WORDS ".repeat(20);
    let cues = parse_srt(&render(
        Format::Srt,
        &transcript(vec![utterance(&long, 10.0, 30.0, Vec::new())]),
    ));
    check_cues(&cues);
    assert_eq!(text_of(&cues), long.trim());
    assert!(cues[0].start == 10_000 && cues.last().is_some_and(|cue| cue.end <= 31_000));
}

#[test]
fn a_cue_ends_at_a_pause_and_short_ones_stay_readable() {
    let mut first = spoken("YES", 0.0, 0.2);
    let late = Word {
        word: "NO".into(),
        start: 9.0,
        end: 9.2,
        confidence: 0.9,
    };
    first.words.push(late);
    first.text = "YES NO".into();
    first.end = 9.2;
    let cues = parse_srt(&render(Format::Srt, &transcript(vec![first])));
    let times: Vec<_> = cues.iter().map(|cue| (cue.start, cue.end)).collect();
    assert_eq!(times, [(0, 1000), (9000, 10_000)]);
}

#[test]
fn json_gives_back_the_utterances() {
    let one = transcript(vec![spoken("HELLO \"WORLD\" \u{1F600}", 0.5, 0.25)]);
    let json: serde_json::Value = serde_json::from_str(&render(Format::Json, &one)).expect("JSON");
    let utterances: Vec<Utterance> = serde_json::from_value(json["utterances"].clone()).expect("utterances");
    assert_eq!(utterances, one.utterances);
    assert_eq!(json["text"], one.text());
    let line = with_document(&one, |document| document.json_line());
    assert_eq!(line.matches('\n').count(), 1);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&line).expect("JSON"), json);
}

#[test]
fn formats_go_by_their_names() {
    for format in Format::ALL {
        assert_eq!(format.extension().parse::<Format>().expect("a format"), format);
    }
    assert!("doc".parse::<Format>().is_err());
}

/// What some format takes for its own, and letters of more than one code point.
const SYNTAX: [&str; 8] = [
    "&amp;",
    "<i>",
    "a-b",
    "WEBVTT",
    "12",
    ";;",
    "\u{1F469}\u{200D}\u{1F4BB}",
    "\u{65E5}\u{672C}",
];

/// Any text a vocabulary could spell, syntax of the formats included, in words of at most a line.
fn any_text() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        4 => "[A-Z']{1,10}",
        1 => "[^\\s\\p{C}]{1,12}",
        1 => prop::sample::select(&SYNTAX[..])
            .prop_map(String::from),
    ];
    prop::collection::vec(word, 1..40).prop_map(|words| words.join(" "))
}

fn any_transcript() -> impl Strategy<Value = Transcript> {
    let utterance = (any_text(), 0.0..5.0_f64, 0.01..1.5_f64);
    prop::collection::vec(utterance, 0..6).prop_map(|parts| {
        let mut at = 0.0;
        let mut utterances = Vec::new();
        for (text, gap, each) in parts {
            let next = spoken(&text, at + gap, each);
            at = next.end;
            utterances.push(next);
        }
        transcript(utterances)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn subtitles_keep_the_text_and_the_order_of_time(transcript in any_transcript()) {
        let srt = parse_srt(&render(Format::Srt, &transcript));
        let vtt = parse_vtt(&render(Format::Vtt, &transcript));
        check_cues(&srt);
        prop_assert_eq!(&srt, &vtt);
        prop_assert_eq!(text_of(&srt), transcript.text());
    }

    /// Times out of order, equal, negative or absurd come from no model, and must break nothing all the same.
    #[test]
    fn subtitles_survive_absurd_times(
        words in prop::collection::vec(("[A-Z]{1,60}", -10.0..1e6_f64, -10.0..1e6_f64), 0..30),
        start in prop::num::f64::ANY,
        end in prop::num::f64::ANY,
    ) {
        let text = words.iter().map(|(word, ..)| word.as_str()).collect::<Vec<_>>().join(" ");
        let spelled = words.into_iter().map(|(word, start, end)| Word { word, start, end, confidence: f32::NAN });
        let with_words = utterance(&text, start, end, spelled.collect());
        let without = utterance(&text, start.min(1e9), end.min(1e9), Vec::new());
        for one in [with_words, without] {
            let one = transcript(vec![one]);
            for cue in parse_srt(&render(Format::Srt, &one)) {
                prop_assert!(cue.start < cue.end);
            }
            for format in Format::ALL {
                render(format, &one);
            }
        }
    }

    #[test]
    fn tables_have_their_columns_whatever_the_text(text in "\\PC*[\\t\\n\\r ]?\\PC*", start in 0.0..1e5_f64) {
        let one = transcript(vec![utterance(&text, start, start + 1.0, Vec::new())]);
        let tsv = render(Format::Tsv, &one);
        for row in tsv.lines().skip(1) {
            let columns: Vec<&str> = row.split('\t').collect();
            prop_assert_eq!(columns.len(), 3);
            prop_assert_eq!(columns[2], squeezed(&text));
        }
        for line in render(Format::Ctm, &one).lines() {
            prop_assert_eq!(line.split(' ').count(), 5, "{}", line);
        }
        prop_assert!(render(Format::Txt, &one).lines().count() <= 1);
    }

    #[test]
    fn ctm_gives_back_the_words_and_their_times(transcript in any_transcript()) {
        let ctm = render(Format::Ctm, &transcript);
        let words: Vec<&Word> = transcript.utterances.iter().flat_map(|utterance| &utterance.words).collect();
        prop_assert_eq!(ctm.lines().count(), words.len());
        for (line, word) in ctm.lines().zip(words) {
            let fields: Vec<&str> = line.split(' ').collect();
            prop_assert_eq!(fields.len(), 6);
            prop_assert_eq!(fields[4], &word.word);
            let (start, duration): (f64, f64) = (fields[2].parse().unwrap(), fields[3].parse().unwrap());
            prop_assert!((start - word.start).abs() < 0.00051 && (start + duration - word.end).abs() < 0.00101);
        }
    }
}
