//! Every story under `scenarios/`, one test each, so that a failure names its story.

use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios")
}

fn story(name: &str) {
    let path = folder().join(name).with_extension("txt");
    if let Err(text) = coracle_tests::scenario::play(&path) {
        panic!("{name}: {text}");
    }
}

macro_rules! stories {
    ($($test:ident = $file:literal)*) => {
        $(#[test]
        fn $test() {
            story($file);
        })*

        #[test]
        fn no_story_is_left_out() {
            let mut told = vec![$($file.to_string()),*];
            let mut there: Vec<String> = std::fs::read_dir(folder())
                .unwrap()
                .filter_map(|entry| entry.unwrap().path().file_stem()?.to_str().map(String::from))
                .collect();
            told.sort();
            there.sort();
            assert_eq!(told, there);
        }
    };
}

stories! {
    figure_7 = "figure-7"
    figure_8 = "figure-8"
    barrier = "barrier"
    h1 = "h1"
    join_cuts_once = "join"
    elections = "elections"
    handing_over = "handing-over"
    slow_disk = "slow-disk"
    stuck_service = "stuck-service"
    split_vote = "split-vote"
    bridge = "bridge"
    timers = "timers"
    service_messages = "service-messages"
    snapshot_leader_change = "snapshot-leader-change"
    restart_from_snapshot = "restart-from-snapshot"
    install = "install"
    rotten_log = "rotten-log"
    full_log = "full-log"
    multicast = "multicast"
    replaced = "replaced"
}
