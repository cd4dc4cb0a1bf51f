//! What the log says of a member that does not join its leader.

use coracle_core::node::Event;
use coracle_core::units::AppVersion;
use coracle_core::wire::member::Setting;

use crate::config::Size;

/// Says which setting differs, both values, and what to do.
pub fn tell(event: Event) {
    let Event::SettingDiffers {
        leader,
        setting,
        own,
        theirs,
    } = event
    else {
        return;
    };
    tracing::error!(
        setting = setting.name(),
        leader = leader.get(),
        own = value(setting, own),
        leaders = value(setting, theirs),
        "this member does not join its leader, because a setting is not the leader's: it stores \
         and executes nothing. {}",
        advice(setting)
    );
}

fn value(setting: Setting, number: u64) -> String {
    match setting {
        Setting::Services | Setting::SessionsMax => number.to_string(),
        Setting::AppVersion => AppVersion::from_wire(number as u32 as i32).to_string(),
        Setting::LogMax if number == 0 => "no bound".into(),
        _ => Size(number).to_string(),
    }
}

fn advice(setting: Setting) -> &'static str {
    match setting {
        Setting::LogMax => {
            "Give it at least as much room for the log as the leader has, and start it again. To \
             raise `log_max` on a running cluster, change the leader last"
        }
        Setting::AppVersion | Setting::Services => {
            "Run the same services on every member, of one major version, and start it again"
        }
        Setting::SessionsMax | Setting::ServiceMemory => {
            "Run the same version of this program on every member"
        }
        _ => {
            "Give every member the same, and start it again. To change it for the whole cluster, \
             stop all members first"
        }
    }
}
