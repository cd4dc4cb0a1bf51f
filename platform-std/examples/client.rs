//! A blocking client: sends each argument as a message, prints each answer.
//!
//! `cargo run --example client -- 0=127.0.0.1:9100,1=127.0.0.1:9101,2=127.0.0.1:9102 hello world`

use std::error::Error;
use std::time::Duration;

use coracle_std::client::{Client, Egress};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let endpoints = args.next().ok_or("usage: client ENDPOINTS MESSAGE...")?;
    let mut client = Client::connect(&endpoints)?;
    for message in args {
        client.offer_until(message.as_bytes(), Duration::from_secs(5))?;
        let mut is_answered = false;
        while !is_answered {
            client.poll(Duration::from_secs(5), |egress| match egress {
                Egress::Message { payload, .. } => {
                    is_answered = true;
                    println!("{}", String::from_utf8_lossy(payload));
                }
                Egress::NewLeader { leader, .. } => {
                    is_answered = true;
                    println!("member {leader} leads now: the outcome of `{message}` is unknown");
                }
                _ => {}
            })?;
        }
    }
    client.close()?;
    Ok(())
}
