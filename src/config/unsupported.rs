//! Options of gearmand for features that this build does not have, and for features that no longer exist.
//!
//! All of them are parsed, so that an existing command line is accepted. Selecting a missing feature is an
//! error: a server that silently does not encrypt would be worse than one that does not start. An option
//! without effect is a warning that says what to do.

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

/// How this build supports an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Support {
    /// It has an effect.
    Live,
    /// It belongs to this feature, which this build does not have.
    Unbuilt(&'static str),
    /// It no longer has an effect, for the given reason, which also says what to do instead.
    Retired(&'static str),
}

const TLS: Support = Support::Unbuilt("TLS (--ssl)");
const ROTATION: Support = Support::Retired("workers always get jobs of their functions in rotation; remove the option");
const TABLES: Support = Support::Retired("tables grow by themselves; remove the option");
const KEEPALIVE: Support = Support::Retired(
    "keep-alive is always on; remove the option and set --keepalive-idle, --keepalive-interval and --keepalive-count",
);
const CORE_DUMPS: Support = Support::Retired(
    "no signal is caught that would dump core; remove the option and allow dumps with `ulimit -c` or LimitCORE=",
);
const STORED_AS_THEY_COME: Support =
    Support::Retired("jobs are stored as they come, and none is left for the end; remove the option");
const QUEUE_GONE: Support = Support::Retired("this queue type was removed; remove the option");

/// Options with a value: long name and support.
const VALUES: &[(&str, Support)] = &[
    ("ssl-ca-file", TLS),
    ("ssl-certificate", TLS),
    ("ssl-key", TLS),
    ("hashtable-buckets", TABLES),
    ("libmemcached-servers", QUEUE_GONE),
    ("libmemcached-prefix", QUEUE_GONE),
    ("libtokyocabinet-file", QUEUE_GONE),
    ("libtokyocabinet-optimize", QUEUE_GONE),
    ("libdrizzle-host", QUEUE_GONE),
    ("libdrizzle-port", QUEUE_GONE),
    ("libdrizzle-uds", QUEUE_GONE),
    ("libdrizzle-user", QUEUE_GONE),
    ("libdrizzle-password", QUEUE_GONE),
    ("libdrizzle-db", QUEUE_GONE),
    ("libdrizzle-table", QUEUE_GONE),
];

/// Switches: long name and support.
const SWITCHES: &[(&str, Support)] = &[
    ("ssl", TLS),
    ("store-queue-on-shutdown", STORED_AS_THEY_COME),
    ("round-robin", ROTATION),
    ("keepalive", KEEPALIVE),
    ("coredump", CORE_DUMPS),
    ("libdrizzle-mysql", QUEUE_GONE),
];

/// How this build supports the option with this long name.
pub(super) fn support(name: &str) -> Support {
    let found = VALUES.iter().chain(SWITCHES).find(|(known, _)| *known == name);
    found.map_or(Support::Live, |(_, support)| *support)
}

/// All options of missing features. Their values are not kept: a selection is checked by name.
#[derive(Clone, Debug)]
pub(super) struct UnsupportedArgs;

impl FromArgMatches for UnsupportedArgs {
    fn from_arg_matches(_: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self)
    }

    fn update_from_arg_matches(&mut self, _: &ArgMatches) -> Result<(), clap::Error> {
        Ok(())
    }
}

impl Args for UnsupportedArgs {
    fn augment_args(mut command: Command) -> Command {
        for (name, support) in VALUES {
            let value = option(name, *support).value_name("VALUE").action(ArgAction::Set);
            command = command.arg(value.allow_hyphen_values(true));
        }
        for (name, support) in SWITCHES {
            command = command.arg(option(name, *support).action(ArgAction::SetTrue));
        }
        command
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

/// Declares an option; the short help omits it.
fn option(name: &'static str, support: Support) -> Arg {
    let (heading, help) = match support {
        Support::Live => ("Options", String::new()),
        Support::Unbuilt(part) => ("Not in this build", format!("Part of {part}")),
        Support::Retired(reason) => ("Retired, without effect", reason.to_owned()),
    };
    let option = Arg::new(name).long(name).help_heading(heading).help(help).hide_short_help(true);
    if name == "round-robin" { option.short('R') } else { option }
}

/// Why `--ssl` is refused.
pub(super) const REFUSE_TLS: &str = "this build does not support TLS and refuses to listen without it where TLS was \
                                     requested; remove the option and put a TLS proxy such as stunnel in front";
