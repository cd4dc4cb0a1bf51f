//! The figures in the repository, and what they were counted with.

/// A rise by more than this fails.
const RISE_MAX: f64 = 0.02;

/// Instructions of one role, per message or per turn.
#[derive(Clone, PartialEq, Debug)]
pub struct Figure {
    pub load: String,
    pub role: String,
    pub count: f64,
}

/// What figures were counted with: only equal ones can be compared.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Here(pub Vec<(String, String)>);

impl Here {
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|(key, value)| format!("{key} = {value}"))
    }
}

const HEAD: &str = "\
# Instructions of the core per message (commit: executed, echo: also answered) or per empty turn
# (idle), per role; of the followers both together, when idle one. Counted by callgrind: see
# `cargo xtask instructions`, which compares with this file where what follows is equal, and writes
# it with `--bless`.
";

/// The file.
pub fn render(here: &Here, figures: &[Figure]) -> String {
    let mut text = HEAD.to_owned();
    for line in here.lines() {
        text.push_str(&line);
        text.push('\n');
    }
    text.push('\n');
    for figure in figures {
        let Figure { load, role, count } = figure;
        text.push_str(&format!("{load} / {role}: {count:.1}\n"));
    }
    text
}

fn parse(text: &str) -> (Here, Vec<Figure>) {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let (mut here, mut figures) = (Here(Vec::new()), Vec::new());
    for line in lines {
        if let Some((key, value)) = line.split_once(" = ") {
            here.0.push((key.to_owned(), value.to_owned()));
        } else if let Some((name, count)) = line.rsplit_once(": ")
            && let Some((load, role)) = name.split_once(" / ")
            && let Ok(count) = count.parse()
        {
            let (load, role) = (load.to_owned(), role.to_owned());
            figures.push(Figure { load, role, count });
        }
    }
    (here, figures)
}

/// Compares with the file's text; false if a figure has risen, or there is another set of figures.
pub fn compare(text: &str, here: &Here, figures: &[Figure]) -> bool {
    let (there, before) = parse(text);
    let names = |figures: &[Figure]| {
        let names = figures.iter().map(|f| (f.load.clone(), f.role.clone()));
        names.collect::<Vec<_>>()
    };
    if names(&before) != names(figures) {
        println!("FAILED: the figures in the repository are others: `--bless` writes them anew");
        return false;
    }
    if there != *here {
        println!("\n!!! NOT COMPARED with the figures in the repository, which were counted with");
        there.lines().for_each(|line| println!("!!!   {line}"));
        println!("!!! Nothing is known here of whether an instruction more is executed.");
        return true;
    }
    let mut is_good = true;
    for (old, new) in before.iter().zip(figures) {
        let change = new.count / old.count - 1.0;
        let word = match change {
            _ if change > RISE_MAX => "FAILED: risen",
            _ if change < -RISE_MAX => "fallen (`--bless` keeps it so)",
            _ => continue,
        };
        is_good &= change <= RISE_MAX;
        let Figure { load, role, count } = new;
        let percent = 100.0 * change;
        println!(
            "{word} by {percent:+.1} %: {load} / {role}: {:.1} -> {count:.1}",
            old.count
        );
    }
    if is_good {
        println!("\nno figure is more than 2 % above the one in the repository");
    }
    is_good
}

#[cfg(test)]
mod tests {
    use super::{Figure, Here, compare, render};

    fn figures(leader: f64) -> Vec<Figure> {
        let figure = |role: &str, count| Figure {
            load: "echo, batch 1".to_owned(),
            role: role.to_owned(),
            count,
        };
        vec![figure("leader", leader), figure("follower", 200.0)]
    }

    fn here(rustc: &str) -> Here {
        Here(vec![("rustc".to_owned(), rustc.to_owned())])
    }

    #[test]
    fn only_a_rise_of_more_than_two_percent_fails() {
        let text = render(&here("1.95"), &figures(1000.0));
        for (count, is_good) in [
            (1000.0, true),
            (1019.0, true),
            (1021.0, false),
            (500.0, true),
        ] {
            assert_eq!(compare(&text, &here("1.95"), &figures(count)), is_good);
        }
    }

    #[test]
    fn figures_of_another_compiler_are_not_compared() {
        let text = render(&here("1.95"), &figures(1000.0));
        assert!(compare(&text, &here("1.96"), &figures(2000.0)));
    }

    #[test]
    fn another_set_of_figures_fails() {
        let text = render(&here("1.95"), &figures(1000.0));
        assert!(!compare(&text, &here("1.95"), &figures(1000.0)[..1]));
        assert!(!compare("", &here("1.95"), &figures(1000.0)));
    }
}
