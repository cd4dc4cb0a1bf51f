//! A blocking client: sends each argument to the cluster and prints the answers.
//!
//! ```text
//! coracle node --init --service echo --member 0 --dir data \
//!     --peer 0=127.0.0.1:9000,127.0.0.1:9100 &
//! cargo run --example client -- 0=127.0.0.1:9100 hello world
//! ```

use std::time::Duration;

use coracle_std::client::{Client, Egress};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let endpoints = args
        .next()
        .ok_or("usage: client 0=HOST:PORT,... MESSAGE...")?;
    let mut client = Client::connect(&endpoints)?;
    for message in args {
        client.offer_until(message.as_bytes(), Duration::from_secs(5))?;
        client.poll(Duration::from_secs(5), |egress| {
            if let Egress::Message { payload, .. } = egress {
                println!("{}", String::from_utf8_lossy(payload));
            }
        })?;
    }
    Ok(client.close()?)
}
