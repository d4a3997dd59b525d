//! Charts as SVG inside the page: sized by its style sheet, coloured by its variables, so that they follow light and dark.

use super::scale::{Scale, short};
use maud::{Markup, html};

/// A line of a chart.
pub(super) struct Line {
    /// For the legend.
    pub(super) name: String,
    /// Which of the page's series colours.
    pub(super) colour: usize,
    /// x, y.
    pub(super) points: Vec<(f64, f64)>,
    /// For each point, the ends of its interval.
    pub(super) intervals: Vec<Option<(f64, f64)>>,
}

/// A chart of lines.
pub(super) struct LineChart<'a> {
    pub(super) title: String,
    /// What a screen reader says of it.
    pub(super) description: String,
    pub(super) x: &'a str,
    pub(super) y: &'a str,
    pub(super) lines: Vec<Line>,
    /// Values of x with a label at the axis; without any, round numbers.
    pub(super) x_ticks: Vec<f64>,
    /// Vertical lines with a label: a stream's boundaries.
    pub(super) boundaries: Vec<(f64, String)>,
    /// Whether y begins at 0.
    pub(super) from_zero: bool,
    pub(super) width: f64,
}

const HEIGHT: f64 = 240.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 44.0;

impl LineChart<'_> {
    pub(super) fn render(&self) -> Markup {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        if points().next().is_none() {
            return html! {};
        }
        let ends = self
            .lines
            .iter()
            .flat_map(|line| line.intervals.iter().flatten())
            .flat_map(|(low, high)| [*low, *high]);
        let (x_low, x_high) = extent(points().map(|point| point.0));
        let (y_low, y_high) = extent(points().map(|point| point.1).chain(ends));
        let margin = ((y_high - y_low) * 0.08).max(1e-3);
        let y_low = if self.from_zero { 0.0 } else { y_low - margin };
        let x = Scale::new(x_low, x_high, LEFT, self.width - RIGHT);
        let y = Scale::new(y_low, y_high + margin, HEIGHT - BOTTOM, TOP);
        let x_ticks = if self.x_ticks.is_empty() {
            x.ticks(6)
        } else {
            self.x_ticks.clone()
        };
        html! {
            figure.chart.wide[self.width > 400.0] {
                figcaption { (self.title) }
                svg viewBox={ "0 0 " (self.width) " " (HEIGHT) } role="img" aria-label=(self.description) {
                    title { (self.description) }
                    @for tick in y.ticks(5) {
                        line.grid x1=(LEFT) x2=(self.width - RIGHT) y1=(y.at(tick)) y2=(y.at(tick)) {}
                        text.tick x=(LEFT - 6.0) y=(y.at(tick) + 4.0) text-anchor="end" { (short(tick)) }
                    }
                    @for tick in &x_ticks {
                        text.tick x=(x.at(*tick)) y=(HEIGHT - BOTTOM + 18.0) text-anchor="middle" { (short(*tick)) }
                    }
                    line.axis x1=(LEFT) x2=(self.width - RIGHT) y1=(HEIGHT - BOTTOM) y2=(HEIGHT - BOTTOM) {}
                    text.label x=((LEFT + self.width - RIGHT) / 2.0) y=(HEIGHT - 6.0) text-anchor="middle" { (self.x) }
                    text.label x="14" y=((TOP + HEIGHT - BOTTOM) / 2.0) text-anchor="middle"
                        transform={ "rotate(-90 14 " ((TOP + HEIGHT - BOTTOM) / 2.0) ")" } { (self.y) }
                    @for (at, label) in &self.boundaries {
                        line.boundary x1=(x.at(*at)) x2=(x.at(*at)) y1=(TOP) y2=(HEIGHT - BOTTOM) {}
                        text.boundary-label x=(x.at(*at) + 4.0) y=(TOP + 9.0) { (label) }
                    }
                    @for line in &self.lines { (self.line(line, x, y)) }
                }
                (legend(self.lines.iter().map(|line| (line.name.as_str(), line.colour))))
            }
        }
    }

    fn line(&self, line: &Line, x: Scale, y: Scale) -> Markup {
        let path: Vec<String> = line
            .points
            .iter()
            .map(|(px, py)| format!("{} {}", x.at(*px), y.at(*py)))
            .collect();
        let band: Option<Vec<(f64, f64, f64)>> = line
            .points
            .iter()
            .zip(&line.intervals)
            .map(|((px, _), interval)| interval.map(|(l, h)| (*px, l, h)))
            .collect();
        let band = band
            .filter(|band| band.len() == line.points.len() && band.len() > 1)
            .map(|band| {
                let upper = band
                    .iter()
                    .map(|(px, _, high)| format!("{} {}", x.at(*px), y.at(*high)));
                let lower = band
                    .iter()
                    .rev()
                    .map(|(px, low, _)| format!("{} {}", x.at(*px), y.at(*low)));
                format!("M{}Z", upper.chain(lower).collect::<Vec<_>>().join("L"))
            });
        html! {
            @if let Some(band) = band { path class={ "band s" (line.colour) } d=(band) {} }
            path class={ "line s" (line.colour) } d={ "M" (path.join("L")) } {}
            @if line.points.len() <= 40 {
                @for (px, py) in &line.points {
                    circle class={ "dot s" (line.colour) } cx=(x.at(*px)) cy=(y.at(*py)) r="3.5" {
                        title { (line.name) ": " (short(*py)) " at " (short(*px)) }
                    }
                }
            }
        }
    }
}

/// A scatter of two rates, equal points drawn once, as large as they are many.
pub(super) fn scatter(
    title: &str,
    description: &str,
    x_label: &str,
    y_label: &str,
    points: &[(f64, f64, usize)],
) -> Markup {
    const SIZE: f64 = 340.0;
    let high = points
        .iter()
        .map(|(x, y, _)| x.max(*y))
        .fold(100.0, f64::max)
        .min(200.0);
    let x = Scale::new(0.0, high, LEFT, SIZE - RIGHT);
    let y = Scale::new(0.0, high, SIZE - BOTTOM, TOP);
    let side = |x: f64, y: f64| {
        if y < x {
            "better"
        } else if y > x {
            "worse"
        } else {
            "same"
        }
    };
    html! {
        figure.chart {
            figcaption { (title) }
            svg viewBox={ "0 0 " (SIZE) " " (SIZE) } role="img" aria-label=(description) {
                title { (description) }
                @for tick in y.ticks(5) {
                    line.grid x1=(LEFT) x2=(SIZE - RIGHT) y1=(y.at(tick)) y2=(y.at(tick)) {}
                    text.tick x=(LEFT - 6.0) y=(y.at(tick) + 4.0) text-anchor="end" { (short(tick)) }
                    text.tick x=(x.at(tick)) y=(SIZE - BOTTOM + 18.0) text-anchor="middle" { (short(tick)) }
                }
                line.axis x1=(x.at(0.0)) y1=(y.at(0.0)) x2=(x.at(high)) y2=(y.at(high)) {}
                text.label x=((LEFT + SIZE - RIGHT) / 2.0) y=(SIZE - 6.0) text-anchor="middle" { (x_label) }
                text.label x="14" y=((TOP + SIZE - BOTTOM) / 2.0) text-anchor="middle"
                    transform={ "rotate(-90 14 " ((TOP + SIZE - BOTTOM) / 2.0) ")" } { (y_label) }
                @for (px, py, count) in points {
                    circle class={ "bubble " (side(*px, *py)) } cx=(x.at(px.min(high))) cy=(y.at(py.min(high)))
                        r=(short((3.0 * (*count as f64).sqrt()).min(16.0))) {
                        title { (count) " utterances: " (short(*px)) " % before, " (short(*py)) " % after" }
                    }
                }
            }
        }
    }
}

/// One row of a [`forest`].
pub(super) struct Row {
    pub(super) label: String,
    pub(super) value: f64,
    pub(super) interval: Option<(f64, f64)>,
    /// `better`, `worse` or `undecided`.
    pub(super) class: &'static str,
}

/// Differences with their intervals, one below the other, around a line at zero.
pub(super) fn forest(title: &str, description: &str, x_label: &str, rows: &[Row]) -> Markup {
    const WIDTH: f64 = 640.0;
    const ROW: f64 = 20.0;
    const NAMES: f64 = 230.0;
    let height = rows.len() as f64 * ROW + TOP + BOTTOM;
    let ends = rows
        .iter()
        .flat_map(|row| row.interval.map_or([row.value; 2], |(low, high)| [low, high]));
    let (low, high) = extent(ends.chain([0.0]));
    let margin = ((high - low) * 0.05).max(0.1);
    let x = Scale::new(low - margin, high + margin, NAMES, WIDTH - RIGHT);
    html! {
        figure.chart.wide {
            figcaption { (title) }
            svg viewBox={ "0 0 " (WIDTH) " " (height) } role="img" aria-label=(description) {
                title { (description) }
                @for tick in x.ticks(7) {
                    line.grid x1=(x.at(tick)) x2=(x.at(tick)) y1=(TOP) y2=(height - BOTTOM) {}
                    text.tick x=(x.at(tick)) y=(height - BOTTOM + 18.0) text-anchor="middle" { (short(tick)) }
                }
                line.axis x1=(x.at(0.0)) x2=(x.at(0.0)) y1=(TOP) y2=(height - BOTTOM) {}
                text.label x=((NAMES + WIDTH - RIGHT) / 2.0) y=(height - 6.0) text-anchor="middle" { (x_label) }
                @for (index, row) in rows.iter().enumerate() {
                    @let middle = TOP + (index as f64 + 0.5) * ROW;
                    text.row x=(NAMES - 10.0) y=(middle + 4.0) text-anchor="end" { (row.label) }
                    @if let Some((low, high)) = row.interval {
                        line class={ "whisker " (row.class) } x1=(x.at(low)) x2=(x.at(high)) y1=(middle) y2=(middle) {}
                    }
                    circle class={ "mark " (row.class) } cx=(x.at(row.value)) cy=(middle) r="4.5" {
                        title { (row.label) ": " (short(row.value)) }
                    }
                }
            }
        }
    }
}

fn legend<'a>(entries: impl Iterator<Item = (&'a str, usize)>) -> Markup {
    html! {
        ul.legend {
            @for (name, colour) in entries { li { span class={ "key s" (colour) } {} (name) } }
        }
    }
}

fn extent(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
        (low.min(value), high.max(value))
    })
}
