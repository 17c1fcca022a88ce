//! Settings from the environment: `GEARMAND_PORT` for `--port`, and so on for every long name.

use std::ffi::{OsStr, OsString};

use super::error::{ConfigError, Origin, nearest_name};
use super::file::mistakes::{self, Quotes};
use super::settings::{Diagnostics, Entry, Settings};

const PREFIX: &str = "GEARMAND_";

/// Variables with which gearmand sets the TLS files.
const OTHER_NAMES: [(&str, &str); 3] =
    [("CA_CERTIFICATE", "ssl-ca-file"), ("SERVER_PEM", "ssl-certificate"), ("SERVER_KEY", "ssl-key")];

/// Reads all variables that start with `GEARMAND_`.
///
/// An empty variable sets nothing. List values are separated by commas or white space. Variables that
/// Kubernetes injects for a service named gearmand are ignored.
pub(super) fn read(
    variables: &[(OsString, OsString)],
    settings: &Settings,
    diagnostics: &mut Diagnostics,
) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut injected = Vec::new();
    let mut ours: Vec<_> = variables.iter().filter_map(|(name, value)| Some((name.to_str()?, value))).collect();
    ours.sort_unstable();
    for (variable, value) in ours {
        let Some(name) = variable.strip_prefix(PREFIX) else {
            continue;
        };
        if is_injected(name, value) {
            injected.push(variable);
        } else if !value.is_empty() {
            take(variable, name, value, settings, &mut entries, diagnostics);
        }
    }
    if !injected.is_empty() {
        let names = injected.join(", ");
        diagnostics.warnings.push(format!(
            "environment {names}: ignored, since Kubernetes writes such variables for a service named gearmand; \
             `enableServiceLinks: false` in the pod stops it"
        ));
    }
    entries
}

fn take(
    variable: &str,
    name: &str,
    value: &OsStr,
    settings: &Settings,
    entries: &mut Vec<Entry>,
    diagnostics: &mut Diagnostics,
) {
    let other = OTHER_NAMES.iter().find(|(other, _)| *other == name);
    let long = other.map_or_else(|| name.to_ascii_lowercase(), |(_, long)| (*long).to_owned());
    let origin = Origin::Environment { variable: variable.to_owned() };
    let Some(setting) = settings.find(&long) else {
        let nearest = settings.nearest(&long).map(variable_name);
        let warning = format!("{origin}: ignored, no setting has this name; {}", nearest_name(nearest.as_deref()));
        diagnostics.warnings.push(warning);
        return;
    };
    if setting.name == "check" {
        diagnostics.warnings.push(format!("{origin}: ignored, --check works on the command line alone"));
        return;
    }
    match value.to_str() {
        Some(list) if setting.is_list() => {
            let values = list.split(|letter: char| letter == ',' || letter.is_whitespace());
            for value in values.filter(|value| !value.is_empty()) {
                settings.admit(setting, value.as_ref(), &origin, entries, diagnostics);
            }
        }
        Some(text) => match mistakes::quotes(text) {
            Quotes::Typographic(letter) => {
                let reason = mistakes::of_quotes(setting.name, letter);
                diagnostics.errors.push(ConfigError::Malformed { reason, origin });
            }
            quotes => {
                if quotes == Quotes::Plain {
                    diagnostics.warnings.push(format!("{origin}: {}", mistakes::plain_quotes(setting.name)));
                }
                settings.admit(setting, value, &origin, entries, diagnostics);
            }
        },
        None => settings.admit(setting, value, &origin, entries, diagnostics),
    }
}

/// The name of the variable for this setting.
fn variable_name(long: &str) -> String {
    format!("{PREFIX}{}", long.replace('-', "_").to_ascii_uppercase())
}

/// Recognizes variables that Kubernetes and Docker links inject for services whose name starts with
/// `gearmand`: `..._SERVICE_HOST`, `..._SERVICE_PORT[_NAME]`, `..._PORT_4730_TCP[_PROTO|_PORT|_ADDR]` and
/// `..._PORT=tcp://...`.
fn is_injected(name: &str, value: &OsStr) -> bool {
    let words: Vec<&str> = name.split('_').collect();
    let service = words.windows(2).any(|pair| matches!(pair, ["SERVICE", "HOST" | "PORT"]));
    let port = words.windows(3).any(|three| {
        let [port, number, protocol] = three else {
            return false;
        };
        *port == "PORT" && number.parse::<u16>().is_ok() && matches!(*protocol, "TCP" | "UDP" | "SCTP")
    });
    let value = value.to_string_lossy();
    let address = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    service || port || (address && words.last() == Some(&"PORT"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn injected_variables_are_told_from_settings() {
        for (name, value) in [
            ("PORT", "tcp://10.0.0.1:4730"),
            ("PORT_4730_TCP", "tcp://10.0.0.1:4730"),
            ("PORT_4730_UDP_ADDR", "10.0.0.1"),
            ("SERVICE_HOST", "10.0.0.1"),
            ("SERVICE_PORT_GEAR", "4730"),
            ("ADMIN_SERVICE_PORT", "80"),
        ] {
            assert!(is_injected(name, value.as_ref()), "{name}={value}");
        }
        for (name, value) in [
            ("PORT", "4730"),
            ("PORT", "gearman"),
            ("LISTEN", "tcp://10.0.0.1:4730"),
            ("LISTEN", "10.0.0.1"),
            ("MYSQL_PORT", "3306"),
            ("PORT_X_TCP", "1"),
        ] {
            assert!(!is_injected(name, value.as_ref()), "{name}={value}");
        }
    }

    #[test]
    fn every_setting_has_a_variable() {
        let settings = Settings::new();
        for setting in settings.all().filter(|setting| setting.name != "check") {
            let variable = variable_name(setting.name);
            let value = if setting.is_switch() { "true" } else { "1" };
            let (mut entries, mut diagnostics) = (Vec::new(), Diagnostics::default());
            let name = variable.strip_prefix(PREFIX).expect("the prefix");
            assert!(!is_injected(name, value.as_ref()), "{variable}");
            take(&variable, name, value.as_ref(), &settings, &mut entries, &mut diagnostics);
            assert!(diagnostics.warnings.is_empty(), "{variable}: {diagnostics:?}");
            let named = entries.iter().map(|entry| entry.name.clone());
            let refused = diagnostics.errors.iter().map(ToString::to_string);
            let answers: Vec<_> = named.chain(refused).collect();
            assert!(answers.len() == 1 && answers[0].contains(setting.name), "{answers:?}");
        }
    }
}
