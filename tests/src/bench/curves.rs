//! Distributions: how much of something took no longer than a time, on a logarithmic axis.

use std::fmt::Write;

use super::svg::{line, open, text};

const WIDTH: f64 = 620.0;
const HEIGHT: f64 = 200.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 130.0;
const TOP: f64 = 36.0;
const BOTTOM: f64 = 40.0;
/// Points of a curve: one for each so many of a hundred.
const POINTS: usize = 200;

/// Told apart also by who does not see all colours.
const COLOURS: [&str; 7] = [
    "#332288", "#cc6677", "#117733", "#88ccee", "#ddaa33", "#aa4499", "#777777",
];

#[derive(Clone, Debug)]
struct Curve {
    name: String,
    times: Vec<f64>,
    count: usize,
}

/// Some distributions in one frame.
#[derive(Clone, Debug)]
pub struct Curves {
    title: String,
    /// The ends of the axis.
    axis: [f64; 2],
    all: Vec<Curve>,
}

impl Curves {
    /// Without any yet; the axis goes from one end to the other.
    pub fn new(title: &str, axis: [f64; 2]) -> Self {
        Self {
            title: title.into(),
            axis,
            all: Vec::new(),
        }
    }

    /// One more: times that are sorted, of `count` that were measured. The others took longer.
    pub fn add(&mut self, name: &str, times: Vec<f64>, count: usize) {
        let name = name.into();
        self.all.push(Curve { name, times, count });
    }

    fn x(&self, value: f64) -> f64 {
        let [low, high] = self.axis.map(f64::log10);
        LEFT + WIDTH * ((value.log10() - low) / (high - low)).clamp(0.0, 1.0)
    }

    fn draw(&self, svg: &mut String, top: f64) {
        let bottom = top + TOP + HEIGHT;
        let y = |share: f64| bottom - HEIGHT * share;
        text(svg, LEFT, top + 22.0, "start", &self.title);
        for share in [0.0, 0.25, 0.5, 0.75, 1.0] {
            line(svg, [LEFT, y(share), LEFT + WIDTH, y(share)], "#ddd");
            text(
                svg,
                LEFT - 6.0,
                y(share) + 4.0,
                "end",
                &format!("{:.0} %", share * 100.0),
            );
        }
        let steps = [1.0, 2.0, 5.0].into_iter();
        let ticks = (0..6).flat_map(|power| steps.clone().map(move |n| n * 10f64.powi(power)));
        for tick in ticks.filter(|tick| (self.axis[0]..=self.axis[1]).contains(tick)) {
            line(svg, [self.x(tick), top + TOP, self.x(tick), bottom], "#eee");
            text(
                svg,
                self.x(tick),
                bottom + 14.0,
                "middle",
                &format!("{tick:.0} ms"),
            );
        }
        for (n, Curve { name, times, count }) in self.all.iter().enumerate() {
            let colour = COLOURS[n % COLOURS.len()];
            let mut path = String::new();
            for point in 0..=POINTS {
                let share = point as f64 / POINTS as f64;
                let at = (share * count.saturating_sub(1) as f64) as usize;
                let Some(time) = times.get(at) else {
                    continue;
                };
                let step = if path.is_empty() { 'M' } else { 'L' };
                // A string grows.
                write!(path, "{step}{:.1} {:.1}", self.x(*time), y(share)).ok();
            }
            let key = top + TOP + 10.0 + n as f64 * 16.0;
            let left = LEFT + WIDTH + 14.0;
            line(svg, [left, key, left + 18.0, key], colour);
            text(svg, left + 24.0, key + 4.0, "start", name);
            writeln!(
                svg,
                "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>"
            )
            .ok();
        }
    }
}

/// The whole file: frames one below the other.
pub fn to_svg(frames: &[Curves]) -> String {
    let height = TOP + HEIGHT + BOTTOM;
    let mut svg = open(LEFT + WIDTH + RIGHT, height * frames.len() as f64);
    for (n, frame) in frames.iter().enumerate() {
        frame.draw(&mut svg, n as f64 * height);
    }
    svg + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_rises_from_the_least_to_the_most() {
        let mut curves = Curves::new("", [10.0, 1000.0]);
        let times = (0..100).map(|n| 10.0 + f64::from(n) * 9.9);
        curves.add("some", times.collect(), 100);
        curves.add("half", vec![20.0; 50], 100);
        let svg = to_svg(&[curves]);
        let (_, path) = svg.split_once("<path d=\"M").unwrap();
        let (path, _) = path.split_once('"').unwrap();
        let points: Vec<[f64; 2]> = path
            .split('L')
            .map(|point| {
                let (x, y) = point.split_once(' ').unwrap();
                [x.parse().unwrap(), y.parse().unwrap()]
            })
            .collect();
        assert_eq!(points.len(), POINTS + 1);
        assert_eq!(points[0], [LEFT, TOP + HEIGHT]);
        // Of which half took longer, that ends half-way.
        let (_, half) = svg.rsplit_once("<path d=\"M").unwrap();
        assert_eq!(half.matches('L').count(), POINTS / 2 + 1);
        assert_eq!(points[POINTS][1], TOP);
        for pair in points.windows(2) {
            assert!(
                pair[0][0] <= pair[1][0] && pair[0][1] > pair[1][1],
                "{pair:?}"
            );
        }
    }
}
