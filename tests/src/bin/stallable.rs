//! A node whose service is stalled while the file `stalled` is beside its configuration: called
//! like `coracle node --config FILE --init`, by the tests of back pressure.

use std::cell::Cell;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use coracle_core::service::echo::Echo;
use coracle_core::service::{Cluster, Service};
use coracle_core::units::{Position, SessionId};
use coracle_std::config::Settings;
use coracle_std::node::NodeBuilder;
use coracle_std::signals::StopSignal;

/// How often the file is looked for.
const AGAIN: Duration = Duration::from_millis(20);

struct Stallable {
    echo: Echo,
    file: PathBuf,
    seen: Cell<(Instant, bool)>,
}

impl Service for Stallable {
    fn ready(&self, _: Position) -> bool {
        let (at, is_stalled) = self.seen.get();
        if at.elapsed() < AGAIN {
            return !is_stalled;
        }
        let is_stalled = self.file.exists();
        self.seen.set((Instant::now(), is_stalled));
        !is_stalled
    }

    fn on_session_message(&mut self, cluster: &mut Cluster<'_>, session: SessionId, text: &[u8]) {
        self.echo.on_session_message(cluster, session, text);
    }

    fn digest(&self) -> u64 {
        self.echo.digest()
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let ["node", "--config", config, "--init"] = args[..] else {
        return Err("usage: stallable node --config FILE --init".into());
    };
    let settings = Settings::load(config.as_ref())?;
    let service = Stallable {
        echo: Echo::default(),
        file: PathBuf::from(config).with_file_name("stalled"),
        seen: Cell::new((Instant::now(), false)),
    };
    let stop = StopSignal::register()?;
    NodeBuilder::new(settings)
        .init(true)
        .stop_signal(stop)
        .run(service)?;
    Ok(())
}
