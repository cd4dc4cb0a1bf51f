//! Every story under `scenarios/`, one test each, so that a failure names its story.

use std::path::Path;

fn story(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("scenarios")
        .join(name)
        .with_extension("txt");
    if let Err(text) = coracle_tests::scenario::play(&path) {
        panic!("{text}");
    }
}

#[test]
fn figure_7() {
    story("figure-7");
}
