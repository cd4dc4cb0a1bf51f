//! Timelines: a lane for each stage, a bar for each part of the log that it had.

use std::fmt::Write;

use super::svg::{line, open, text};
use super::trace::Note;

const WIDTH: f64 = 900.0;
const LEFT: f64 = 130.0;
const RIGHT: f64 = 40.0;
const TOP: f64 = 36.0;
const HEAD: f64 = 30.0;
const LANE: f64 = 15.0;
/// Between the leader's lanes and the follower's.
const BREAK: f64 = 8.0;
const FOOT: f64 = 34.0;

/// One stage of one member.
#[derive(Clone, Debug)]
pub struct Lane {
    /// Whose.
    pub group: &'static str,
    /// Which.
    pub name: &'static str,
    /// When it had what.
    pub notes: Vec<Note>,
}

#[derive(Clone, Debug)]
struct Panel {
    title: String,
    window: [u64; 2],
    lanes: Vec<Lane>,
}

/// Some timelines of equal length, one below the other.
#[derive(Clone, Debug)]
pub struct Picture {
    title: String,
    panels: Vec<Panel>,
}

impl Picture {
    /// Without timelines yet.
    pub fn new(title: &str) -> Self {
        Self {
            title: title.into(),
            panels: Vec::new(),
        }
    }

    /// One more, below.
    pub fn add(&mut self, title: &str, window: [u64; 2], lanes: Vec<Lane>) {
        self.panels.push(Panel {
            title: title.into(),
            window,
            lanes,
        });
    }

    /// The whole file.
    pub fn to_svg(&self) -> String {
        let height: f64 = self.panels.iter().map(Panel::height).sum();
        let mut svg = open(LEFT + WIDTH + RIGHT, TOP + height);
        text(&mut svg, LEFT, 20.0, "start", &self.title);
        let mut top = TOP;
        for panel in &self.panels {
            panel.draw(&mut svg, top);
            top += panel.height();
        }
        svg + "</svg>\n"
    }
}

impl Panel {
    fn height(&self) -> f64 {
        HEAD + self.lanes.len() as f64 * LANE + BREAK + FOOT
    }

    fn draw(&self, svg: &mut String, top: f64) {
        text(svg, LEFT, top + 18.0, "start", &self.title);
        let length = (self.window[1] - self.window[0]) as f64;
        let x = |time: u64| {
            let into = time.clamp(self.window[0], self.window[1]) - self.window[0];
            LEFT + WIDTH * into as f64 / length
        };
        let (mut y, mut group) = (top + HEAD, "");
        let colours = Colours::of(&self.lanes);
        for lane in &self.lanes {
            if lane.group != group {
                y += if group.is_empty() { 0.0 } else { BREAK };
                text(svg, 8.0, y + 11.0, "start", lane.group);
                group = lane.group;
            }
            text(svg, LEFT - 6.0, y + 11.0, "end", lane.name);
            line(svg, [LEFT, y + LANE, LEFT + WIDTH, y + LANE], "#eee");
            for note in &lane.notes {
                let (left, right) = (x(note.begun), x(note.ended));
                let (width, top) = ((right - left).max(0.7), y + 1.0);
                let (colour, Note { from, to, .. }) = (colours.of_part(note), note);
                // A string grows.
                writeln!(
                    svg,
                    "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"13\" \
                     fill=\"{colour}\"><title>{from}-{to}</title></rect>"
                )
                .ok();
            }
            y += LANE;
        }
        self.draw_scale(svg, top + HEAD, y);
    }

    fn draw_scale(&self, svg: &mut String, top: f64, bottom: f64) {
        let length = self.window[1] - self.window[0];
        let steps = (1..).flat_map(|n| [1, 2, 5].map(|first| first * 10u64.pow(n)));
        let step = steps.into_iter().find(|step| length / step <= 12);
        let step = step.unwrap_or(length.max(1));
        for at in (0..=length / step).map(|n| n * step) {
            let x = LEFT + WIDTH * at as f64 / length as f64;
            line(svg, [x, top, x, bottom + 4.0], "#ccc");
            let micros = format!("{} us", at / 1000);
            text(svg, x, bottom + 16.0, "middle", &micros);
        }
    }
}

/// From positions to colours: along the log, around the wheel.
struct Colours {
    first: u64,
    length: f64,
}

impl Colours {
    fn of(lanes: &[Lane]) -> Self {
        let notes = || lanes.iter().flat_map(|lane| &lane.notes);
        let first = notes().map(|note| note.from).min().unwrap_or(0);
        let last = notes().map(|note| note.to).max().unwrap_or(0);
        Self {
            first,
            length: (last - first).max(1) as f64,
        }
    }

    /// Of the middle of what it had: a hue from red to violet.
    fn of_part(&self, note: &Note) -> String {
        let middle = (note.from - self.first) as f64 + (note.to - note.from) as f64 / 2.0;
        let hue = 5.0 * middle / self.length;
        let [red, green, blue] = [5.0, 3.0, 1.0].map(|shift| {
            let turned = (hue + shift) % 6.0;
            (220.0 - 190.0 * turned.min(4.0 - turned).clamp(0.0, 1.0)) as u8
        });
        format!("#{red:02x}{green:02x}{blue:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_in_its_lane_at_its_time_and_one_part_of_the_log_has_one_colour() {
        let note = |from, to, begun, ended| Note {
            stage: String::new(),
            from,
            to,
            begun,
            ended,
        };
        let lane = |name, notes| Lane {
            group: "leader",
            name,
            notes,
        };
        let mut picture = Picture::new("");
        let order = vec![note(0, 96, 1000, 1500), note(96, 192, 1500, 2000)];
        let lanes = vec![
            lane("order", order),
            lane("write", vec![note(96, 192, 1750, 3000)]),
        ];
        picture.add("", [1000, 2000], lanes);
        let svg = picture.to_svg();
        let of = |line: &str, key: &str| {
            let (_, rest) = line.split_once(key).unwrap();
            rest.split('"').next().unwrap().to_owned()
        };
        let bars: Vec<&str> = svg.lines().filter(|l| l.starts_with("<rect x")).collect();
        let number = |line: &str, key: &str| of(line, key).parse::<f64>().unwrap();
        assert_eq!(bars.len(), 3);
        assert_eq!(number(bars[0], " x=\""), LEFT);
        assert_eq!(number(bars[0], " width=\""), WIDTH / 2.0);
        assert_eq!(number(bars[1], " x=\""), LEFT + WIDTH / 2.0);
        // What goes on past the picture ends with it.
        assert_eq!(number(bars[2], " width=\""), WIDTH / 4.0);
        assert_eq!(number(bars[2], " y=\"") - number(bars[1], " y=\""), LANE);
        assert_eq!(of(bars[1], "fill=\""), of(bars[2], "fill=\""));
        assert_ne!(of(bars[0], "fill=\""), of(bars[1], "fill=\""));
    }
}
