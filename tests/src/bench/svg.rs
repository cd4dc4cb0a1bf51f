//! Plots: a few panels side by side, both axes logarithmic.

use std::fmt::Write;

use super::figure::Spread;

const WIDTH: f64 = 320.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 56.0;
const TOP: f64 = 48.0;
const BOTTOM: f64 = 48.0;
const GAP: f64 = 24.0;

/// One curve over one variable.
#[derive(Clone, Debug)]
pub struct Panel {
    name: String,
    points: Vec<(f64, Spread)>,
}

impl Panel {
    /// Without points yet.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            points: Vec::new(),
        }
    }

    /// One more point.
    pub fn add(&mut self, x: f64, y: Spread) {
        self.points.push((x, y));
    }
}

/// Some panels that share their vertical axis.
#[derive(Clone, Debug)]
pub struct Plot {
    title: String,
    panels: Vec<Panel>,
}

/// From numbers to places; each power of ten is a line.
struct Scale {
    low: f64,
    high: f64,
}

impl Scale {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let (mut low, mut high) = (f64::MAX, f64::MIN);
        for value in values {
            low = low.min(value.log10());
            high = high.max(value.log10());
        }
        let (low, high) = (low.floor(), high.ceil());
        Self {
            low,
            high: high.max(low + 1.0),
        }
    }

    fn at(&self, value: f64) -> f64 {
        (value.log10() - self.low) / (self.high - self.low)
    }

    fn powers(&self) -> impl Iterator<Item = f64> + use<> {
        (self.low as i32..=self.high as i32).map(|n| 10f64.powi(n))
    }
}

impl Plot {
    /// Without panels yet.
    pub fn new(title: &str) -> Self {
        Self {
            title: title.into(),
            panels: Vec::new(),
        }
    }

    /// One more panel, to the right.
    pub fn add(&mut self, panel: Panel) {
        self.panels.push(panel);
    }

    /// The whole file.
    pub fn to_svg(&self) -> String {
        let count = self.panels.len() as f64;
        let (width, height) = (LEFT + count * (WIDTH + GAP), TOP + HEIGHT + BOTTOM);
        let values = self.panels.iter().flat_map(|panel| &panel.points);
        // A rate of zero has no logarithm.
        let y = Scale::of(
            values
                .flat_map(|(_, s)| [s.min, s.max])
                .map(|v| v.max(0.01)),
        );
        let mut svg = open(width, height);
        text(&mut svg, LEFT, 20.0, "start", &self.title);
        for value in y.powers() {
            let at = TOP + HEIGHT * (1.0 - y.at(value));
            text(&mut svg, LEFT - 6.0, at + 4.0, "end", &plain(value));
        }
        for (n, panel) in self.panels.iter().enumerate() {
            panel.draw(&mut svg, LEFT + n as f64 * (WIDTH + GAP), &y);
        }
        svg + "</svg>\n"
    }
}

impl Panel {
    fn draw(&self, svg: &mut String, left: f64, y: &Scale) {
        // A message of no bytes has a place too: beside those of one.
        let x = Scale::of(self.points.iter().map(|(x, _)| x.max(1.0)));
        let place = |value: f64| left + WIDTH * x.at(value.max(1.0));
        let level = |value: f64| TOP + HEIGHT * (1.0 - y.at(value.max(0.01)));
        for value in y.powers() {
            line(
                svg,
                [left, level(value), left + WIDTH, level(value)],
                "#ddd",
            );
        }
        line(svg, [left, TOP, left, TOP + HEIGHT], "#888");
        let mut path = String::new();
        for (at, spread) in &self.points {
            let (px, py) = (place(*at), level(spread.median));
            let step = if path.is_empty() { 'M' } else { 'L' };
            // A string grows.
            write!(path, "{step}{px:.1} {py:.1} ").ok();
            line(svg, [px, level(spread.min), px, level(spread.max)], "#36c");
            writeln!(
                svg,
                "<circle cx=\"{px:.1}\" cy=\"{py:.1}\" r=\"3\" fill=\"#36c\"/>"
            )
            .ok();
            text(svg, px, py - 8.0, "middle", &plain(spread.median));
            text(svg, px, TOP + HEIGHT + 16.0, "middle", &plain(*at));
        }
        writeln!(svg, "<path d=\"{path}\" fill=\"none\" stroke=\"#36c\"/>").ok();
        text(
            svg,
            left + WIDTH / 2.0,
            TOP + HEIGHT + 36.0,
            "middle",
            &self.name,
        );
    }
}

/// A white sheet, to which what is drawn is added, and `</svg>`.
pub fn open(width: f64, height: f64) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" \
         height=\"{height:.0}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    )
}

/// A straight line.
pub fn line(svg: &mut String, [x1, y1, x2, y2]: [f64; 4], colour: &str) {
    writeln!(
        svg,
        "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\"/>"
    )
    .ok();
}

/// Words, which start, end, or have their middle at `x`.
pub fn text(svg: &mut String, x: f64, y: f64, anchor: &str, words: &str) {
    writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>"
    )
    .ok();
}

/// Without a fraction where that says nothing.
fn plain(value: f64) -> String {
    match value {
        v if v >= 10.0 => format!("{v:.0}"),
        v if v.fract() == 0.0 => format!("{v:.0}"),
        v => format!("{v:.1}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_is_inside_the_picture() {
        let mut panel = Panel::new("bytes");
        for (x, y) in [(0.0, 0.0), (32.0, 900.0), (65_536.0, 12.5)] {
            panel.add(x, Spread::of(&[y]).unwrap());
        }
        let mut plot = Plot::new("rate");
        plot.add(panel);
        let svg = plot.to_svg();
        let circles = svg.lines().filter(|line| line.starts_with("<circle"));
        let places: Vec<(f64, f64)> = circles
            .map(|line| {
                let of = |key: &str| {
                    let (_, rest) = line.split_once(key).unwrap();
                    rest.split('"').next().unwrap().parse().unwrap()
                };
                (of("cx=\""), of("cy=\""))
            })
            .collect();
        assert_eq!(places.len(), 3);
        for (x, y) in &places {
            assert!((LEFT..=LEFT + WIDTH).contains(x), "{places:?}");
            assert!((TOP..=TOP + HEIGHT).contains(y), "{places:?}");
        }
        assert!(places[1].1 < places[2].1, "more is higher: {places:?}");
    }
}
