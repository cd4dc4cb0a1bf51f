//! The format of callgrind's output files, as far as it is needed (Valgrind manual, "Callgrind
//! Format Specification").

use std::collections::HashMap;

/// What all calls of `function` cost, with all that they call. It must not call itself.
pub fn inclusive(text: &str, function: &str) -> u64 {
    let mut names = HashMap::new();
    let (mut total, mut is_callee, mut is_call) = (0, false, false);
    for line in text.lines() {
        if let Some(callee) = line.strip_prefix("cfn=") {
            is_callee = name(&mut names, callee) == function;
        } else if let Some(caller) = line.strip_prefix("fn=") {
            name(&mut names, caller);
        } else if line.starts_with("calls=") {
            is_call = true;
        } else if std::mem::take(&mut is_call) && is_callee {
            // Behind `calls=` stands one line: where from, and what the calls cost.
            let cost = line.split_whitespace().nth(1);
            total += cost.and_then(|cost| cost.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    total
}

/// `(7) name` defines a name and `(7)` repeats it.
fn name<'t>(names: &mut HashMap<&'t str, &'t str>, text: &'t str) -> &'t str {
    match text.split_once(' ') {
        Some((id, name)) if id.starts_with('(') => {
            names.insert(id, name);
            name
        }
        _ => names.get(text).copied().unwrap_or(text),
    }
}

#[cfg(test)]
mod tests {
    use super::inclusive;

    const FILE: &str = "\
events: Ir
fl=(1) a.rs
fn=(1) main
10 5
cfi=(2) b.rs
cfn=(2) leader
calls=3 20
11 300
cfn=(3) client
calls=1 30
12 40
fn=(2)
20 100
cfn=(4) deep
calls=1 1
+1 200
fn=(5) again
10 1
cfn=(2)
calls=1 20
* 50
";

    #[test]
    fn the_calls_of_a_function_are_added_up_from_all_callers() {
        assert_eq!(inclusive(FILE, "leader"), 350);
        assert_eq!(inclusive(FILE, "client"), 40);
        assert_eq!(inclusive(FILE, "deep"), 200);
        assert_eq!(inclusive(FILE, "main"), 0);
    }
}
