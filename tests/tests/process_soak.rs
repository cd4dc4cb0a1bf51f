//! The log's bound, over real files: `cargo xtask soak` is the long version.

use coracle_tests::process::soak;

#[test]
fn a_log_that_is_written_over_and_over_never_takes_more_than_its_bound() {
    let seen = soak::soak(3, true, |line| println!("{line}"));
    assert!(seen.written >= 3 * seen.log_max, "{seen:?}");
    assert!(seen.away.is_some_and(|(_, missed)| missed > 0), "{seen:?}");
    // It is the log's bound that is shown, not that little was written.
    assert!(seen.peak > seen.log_max / 2, "{seen:?}");
}
