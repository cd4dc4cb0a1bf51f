//! What was measured: figures over repeated runs, beside the limit of the same runs and a goal.

use serde_json::{Value, json};

/// What a figure counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// Microseconds.
    Micros,
    /// Milliseconds.
    Millis,
    /// A thousand a second.
    Kilo,
    /// Percent of one core.
    Percent,
    /// MiB.
    Mib,
    /// A bare number.
    Count,
}

impl Unit {
    fn text(self) -> &'static str {
        match self {
            Self::Micros => "us",
            Self::Millis => "ms",
            Self::Kilo => "k/s",
            Self::Percent => "%",
            Self::Mib => "MiB",
            Self::Count => "",
        }
    }
}

/// What is to be reached.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Goal {
    /// The median is to be no higher.
    AtMost(f64),
    /// The median is to be no lower.
    AtLeast(f64),
    /// The median of the ratios to the limit is to be no higher.
    RatioAtMost(f64),
}

/// Smallest, middle and largest of some runs.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Spread {
    /// The smallest.
    pub min: f64,
    /// The median: of an even number, the lower of the two in the middle.
    pub median: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// `None` for no runs.
    pub fn of(runs: &[f64]) -> Option<Self> {
        let mut sorted: Vec<f64> = runs.iter().copied().filter(|n| n.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        Some(Self {
            min: *sorted.first()?,
            median: sorted[(sorted.len() - 1) / 2],
            max: *sorted.last()?,
        })
    }

    fn text(&self) -> String {
        let all = [self.min, self.median, self.max].map(number);
        all.join(" / ")
    }

    fn json(&self) -> Value {
        json!({ "min": round(self.min), "median": round(self.median), "max": round(self.max) })
    }
}

/// One figure: a value from every run and, if there is a limit, its value from the same run.
#[derive(Clone, Debug)]
pub struct Line {
    /// What, in a word or two.
    pub label: String,
    /// Of what.
    pub unit: Unit,
    /// One value of each run.
    pub runs: Vec<f64>,
    /// The name of the limit, and its value in each run.
    pub limit: Option<(String, Vec<f64>)>,
    /// What is to be reached.
    pub goal: Option<Goal>,
}

impl Line {
    /// Without limit or goal.
    pub fn new(label: &str, unit: Unit, runs: Vec<f64>) -> Self {
        Self {
            label: label.into(),
            unit,
            runs,
            limit: None,
            goal: None,
        }
    }

    /// Beside a limit.
    #[must_use]
    pub fn beside(mut self, name: &str, runs: Vec<f64>) -> Self {
        self.limit = Some((name.into(), runs));
        self
    }

    /// With a goal.
    #[must_use]
    pub fn to_reach(mut self, goal: Goal) -> Self {
        self.goal = Some(goal);
        self
    }

    /// By how much each run is over its own limit.
    fn ratios(&self) -> Vec<f64> {
        let limit = self.limit.as_ref().map_or(&[][..], |(_, runs)| runs);
        let pairs = self.runs.iter().zip(limit);
        pairs.map(|(run, limit)| run / limit).collect()
    }

    /// Whether the goal is reached; `None` without one.
    pub fn is_reached(&self) -> Option<bool> {
        let median = |runs: &[f64]| Spread::of(runs).map_or(f64::NAN, |spread| spread.median);
        Some(match self.goal? {
            Goal::AtMost(most) => median(&self.runs) <= most,
            Goal::AtLeast(least) => median(&self.runs) >= least,
            Goal::RatioAtMost(most) => median(&self.ratios()) <= most,
        })
    }

    fn print(&self) {
        let Some(spread) = Spread::of(&self.runs) else {
            println!("    {:<31} not measured", self.label);
            return;
        };
        let label = format!("{} {}", self.label, self.unit.text());
        let mut text = format!("    {label:<32}{:<26}", spread.text());
        if let Some((name, runs)) = &self.limit
            && let (Some(limit), Some(ratio)) = (Spread::of(runs), Spread::of(&self.ratios()))
        {
            text += &format!(" | {name} {} | ratio {}", limit.text(), ratio.text());
        }
        if let (Some(goal), Some(is_reached)) = (self.goal, self.is_reached()) {
            let goal = match goal {
                Goal::AtMost(most) => format!("at most {}", number(most)),
                Goal::AtLeast(least) => format!("at least {}", number(least)),
                Goal::RatioAtMost(most) => format!("ratio at most {}", number(most)),
            };
            text += &format!(" | {goal}: {}", if is_reached { "met" } else { "NOT MET" });
        }
        println!("{}", text.trim_end());
    }

    fn json(&self) -> Value {
        let goal = self.goal.map(|goal| match goal {
            Goal::AtMost(most) => json!({ "at_most": most }),
            Goal::AtLeast(least) => json!({ "at_least": least }),
            Goal::RatioAtMost(most) => json!({ "ratio_at_most": most }),
        });
        let limit = self.limit.as_ref().map(|(name, runs)| {
            json!({ "name": name, "spread": Spread::of(runs).map(|s| s.json()),
                    "ratio": Spread::of(&self.ratios()).map(|s| s.json()) })
        });
        json!({ "label": self.label, "unit": self.unit.text(), "runs": self.runs,
                "spread": Spread::of(&self.runs).map(|s| s.json()), "limit": limit,
                "goal": goal, "is_reached": self.is_reached() })
    }
}

/// One row of the table.
#[derive(Clone, Debug)]
pub struct Row {
    /// The letter by which it is picked.
    pub id: char,
    /// What was measured.
    pub what: String,
    /// The figures.
    pub lines: Vec<Line>,
    /// What a reader has to know beside.
    pub notes: Vec<String>,
}

impl Row {
    /// Without figures yet.
    pub fn new(id: char, what: &str) -> Self {
        Self {
            id,
            what: what.into(),
            lines: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Prints it.
    pub fn print(&self) {
        println!("{}. {}", self.id, self.what);
        for line in &self.lines {
            line.print();
        }
        for note in &self.notes {
            println!("    ({note})");
        }
    }

    /// As JSON.
    pub fn json(&self) -> Value {
        let lines: Vec<Value> = self.lines.iter().map(Line::json).collect();
        json!({ "row": self.id.to_string(), "what": self.what, "figures": lines,
                "notes": self.notes })
    }
}

fn round(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

/// With about three digits that count.
fn number(number: f64) -> String {
    match number.abs() {
        n if n >= 100.0 => format!("{number:.0}"),
        n if n >= 10.0 => format!("{number:.1}"),
        _ => format!("{number:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_of_what_was_measured() {
        assert_eq!(Spread::of(&[]), None);
        assert_eq!(Spread::of(&[f64::NAN]), None);
        let spread = Spread::of(&[3.0, 1.0, 4.0, 2.0]).unwrap();
        assert_eq!((spread.min, spread.median, spread.max), (1.0, 2.0, 4.0));
    }

    #[test]
    fn a_ratio_is_of_values_of_the_same_run() {
        let line = Line::new("p50", Unit::Micros, vec![10.0, 40.0, 90.0]);
        let line = line.beside("chain", vec![10.0, 20.0, 30.0]);
        assert_eq!(line.ratios(), [1.0, 2.0, 3.0]);
        let reached = |goal| line.clone().to_reach(goal).is_reached();
        assert_eq!(reached(Goal::RatioAtMost(2.0)), Some(true));
        assert_eq!(reached(Goal::RatioAtMost(1.9)), Some(false));
        assert_eq!(reached(Goal::AtMost(39.0)), Some(false));
        assert_eq!(reached(Goal::AtLeast(40.0)), Some(true));
        assert_eq!(line.is_reached(), None);
    }

    #[test]
    fn what_was_not_measured_reaches_no_goal() {
        for goal in [
            Goal::AtMost(1.0),
            Goal::AtLeast(1.0),
            Goal::RatioAtMost(1.0),
        ] {
            let line = Line::new("p50", Unit::Micros, Vec::new()).to_reach(goal);
            assert_eq!(line.is_reached(), Some(false));
        }
    }
}
