//! Arguments before clap sees them: a configuration file becomes flags, and so do upstream's flags of embedded parts.
//!
//! A configuration file has the flags' names as keys. What the command line says replaces what the file says.
//! `--kubelet-arg max-pods=50` is the flag `--max-pods=50` of the part that its help heading names.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context, Result, bail};
use apimachinery::Value;
use clap::{ArgAction, Command};

use crate::upstream;

/// The largest configuration file, in bytes.
const MAX_CONFIG_BYTES: u64 = 1 << 20;
/// The embedded parts whose flags upstream's names may be given for, as help headings.
pub(crate) const PARTS: [&str; 5] =
    ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy"];

/// Upstream's flags of embedded parts. They never reach clap: [`expand`] replaces them; here they are for `--help` and
/// for the names of a configuration file.
#[derive(Debug, Clone, clap::Args)]
#[group(id = "parts")]
#[command(next_help_heading = "Embedded parts")]
#[allow(clippy::struct_field_names, dead_code, reason = "replaced before clap parses")]
pub(crate) struct PartArguments {
    /// A flag below "kube-apiserver", by upstream's name
    #[arg(long, value_name = "NAME=VALUE")]
    kube_apiserver_arg: Vec<String>,
    /// A flag below "kube-controller-manager", by upstream's name
    #[arg(long, value_name = "NAME=VALUE")]
    kube_controller_manager_arg: Vec<String>,
    /// A flag below "kube-scheduler", by upstream's name
    #[arg(long, value_name = "NAME=VALUE")]
    kube_scheduler_arg: Vec<String>,
    /// A flag below "kubelet", by upstream's name
    #[arg(long, value_name = "NAME=VALUE")]
    kubelet_arg: Vec<String>,
    /// A flag below "kube-proxy", by upstream's name
    #[arg(long, value_name = "NAME=VALUE")]
    kube_proxy_arg: Vec<String>,
}

/// `kube-scheduler ...` is `kubelith kube-scheduler ...`.
pub(crate) fn by_name(mut arguments: Vec<String>) -> Vec<String> {
    let called = arguments.first().and_then(|it| Path::new(it).file_name()?.to_str());
    if let Some(table) = upstream::TABLES.iter().find(|it| called == Some(it.program)) {
        arguments.insert(1, table.program.to_owned());
    }
    arguments
}

/// The arguments that clap is to parse, and what is to be said of those that do nothing.
///
/// # Errors
/// A configuration file that cannot be read, or names what is no flag; a flag that its part does not have.
pub(crate) fn expand(arguments: Vec<String>, root: &Command) -> Result<(Vec<String>, Vec<String>)> {
    let Some(command) = arguments.get(1).and_then(|name| root.find_subcommand(name)) else {
        return Ok((arguments, Vec::new()));
    };
    let (head, rest) = arguments.split_at(2);
    let mut all = head.to_vec();
    if command.get_arguments().any(|it| it.get_long() == Some("config"))
        && let Some(path) = value_of(rest, "config")
    {
        let given: BTreeSet<&str> = rest.iter().filter_map(|it| name_of(it)).collect();
        let config = read(Path::new(path))?;
        let from_file = from_config(&config, command, &given);
        all.extend(from_file.with_context(|| format!("configuration file {path}"))?);
    }
    all.extend(rest.iter().cloned());
    rewrite_parts(all, command)
}

/// The long name of an argument that is a flag.
fn name_of(argument: &str) -> Option<&str> {
    let flag = argument.strip_prefix("--")?;
    Some(flag.split_once('=').map_or(flag, |(name, _)| name)).filter(|name| !name.is_empty())
}

/// What a flag is given, in either of the two forms.
fn value_of<'a>(arguments: &'a [String], name: &str) -> Option<&'a str> {
    let at = arguments.iter().position(|it| name_of(it) == Some(name))?;
    match arguments[at].split_once('=') {
        Some((_, value)) => Some(value),
        None => arguments.get(at + 1).map(String::as_str),
    }
}

fn read(path: &Path) -> Result<Value> {
    let shown = path.display();
    let mut text = Vec::new();
    // Some files have no size and no end.
    let file = std::fs::File::open(path).with_context(|| format!("could not read {shown}"))?;
    let read = file.take(MAX_CONFIG_BYTES + 1).read_to_end(&mut text);
    if read.with_context(|| format!("could not read {shown}"))? as u64 > MAX_CONFIG_BYTES {
        bail!("{shown} is too large: a configuration file has at most {MAX_CONFIG_BYTES} bytes");
    }
    let parsed = apimachinery::yaml::parse_reporting(&text);
    let (value, repeated) = parsed.map_err(|error| anyhow::anyhow!("{shown}: {error}"))?;
    match apimachinery::yaml::strict_error(&repeated) {
        Some(problem) => bail!("{shown}: {problem}"),
        None => Ok(value),
    }
}

fn from_config(config: &Value, command: &Command, given: &BTreeSet<&str>) -> Result<Vec<String>> {
    let members = match config {
        Value::Null => return Ok(Vec::new()),
        Value::Object(members) => members,
        _ => bail!("it must be a mapping from the names of flags to their values"),
    };
    let mut all = Vec::new();
    for (name, value) in members.iter() {
        let flag = command.get_arguments().find(|it| it.get_long() == Some(name));
        let Some(flag) = flag else {
            bail!(
                "{name:?} is no flag of kubelith {0}; see kubelith {0} --help",
                command.get_name()
            );
        };
        if given.contains(name as &str) || name == "config" {
            continue;
        }
        let switch = matches!(flag.get_action(), ArgAction::SetTrue | ArgAction::Count);
        for value in value.as_array().unwrap_or(std::slice::from_ref(value)) {
            let text = scalar(value).with_context(|| format!("the value of {name:?}"))?;
            match (switch, text.as_str()) {
                (true, "true") => all.push(format!("--{name}")),
                (true, "false") => {}
                _ => all.push(format!("--{name}={text}")),
            }
        }
    }
    Ok(all)
}

fn scalar(value: &Value) -> Result<String> {
    match value {
        Value::String(text) => Ok(text.to_string()),
        Value::Array(_) | Value::Object(_) | Value::Null => {
            bail!("must be text, a number, a boolean or a list of these")
        }
        other => Ok(String::from_utf8(apimachinery::json::to_vec(other))?),
    }
}

/// `--kubelet-arg=max-pods=50` and `--kubelet-arg max-pods=50` become `--max-pods=50`.
fn rewrite_parts(arguments: Vec<String>, command: &Command) -> Result<(Vec<String>, Vec<String>)> {
    let mut all = Vec::with_capacity(arguments.len());
    let mut warnings = Vec::new();
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let part = name_of(&argument).and_then(|it| it.strip_suffix("-arg"));
        let Some(part) = PARTS.into_iter().find(|it| part == Some(*it)) else {
            all.push(argument);
            continue;
        };
        let assignment = match argument.split_once('=') {
            Some((_, it)) => it.to_owned(),
            None => arguments.next().with_context(|| format!("{argument} needs NAME=VALUE"))?,
        };
        let assignment = assignment.trim_start_matches('-');
        let name = assignment.split_once('=').map_or(assignment, |(name, _)| name);
        // Underscores are as good, as upstream has it.
        let (name, written) = (name.replace('_', "-"), &assignment[name.len()..]);
        let has = |name: &str| {
            command.get_arguments().any(|it| {
                let headings = it.get_help_heading().unwrap_or_default();
                it.get_long() == Some(name) && headings.split(", ").any(|it| it == part)
            })
        };
        // Some names of upstream's parts would be taken twice: here they begin with the part's own.
        let own = format!("{part}-{name}");
        if has(&own) {
            all.push(format!("--{own}{written}"));
        } else if has(&name) {
            all.push(format!("--{name}{written}"));
        } else if let Some(does_nothing) = does_nothing(part, &name, written)? {
            warnings.extend(does_nothing);
        } else {
            bail!(
                "{part} has no flag --{name} here; kubelith {} --help lists those under {part}, \
                 docs/gaps.md says what is missing",
                command.get_name()
            );
        }
    }
    Ok((all, warnings))
}

/// What is to be said of one of upstream's flags that does nothing in this process; nothing, where there is no such flag.
///
/// # Errors
/// What its value cannot be, and what is not built.
fn does_nothing(part: &str, name: &str, written: &str) -> Result<Option<Option<String>>> {
    let Some(table) = upstream::TABLES.iter().find(|it| it.program == part) else {
        return Ok(None);
    };
    let Some(flag) = table.find(name) else { return Ok(None) };
    let value = written.strip_prefix('=').unwrap_or("true");
    let value = flag.checked(value).map_err(|why| anyhow::anyhow!("{part}: {why}"))?;
    if flag.usage != upstream::Use::Used {
        return Ok(Some(flag.warning(&value)?.map(|it| format!("{part}: {it}"))));
    }
    let of_its_port = upstream::SERVING.iter().any(|it| it.name == name);
    let of_its_port = of_its_port || ["kubeconfig", "master", "secure-port"].contains(&name);
    Ok((of_its_port && part != "kube-apiserver").then(|| {
        let why = "in this process the part has no port and no way to the API server of its own";
        Some(format!("{part}: --{name} has no meaning here: {why}"))
    }))
}

#[cfg(test)]
mod tests {
    use clap::{Arg, CommandFactory as _};

    use super::*;

    fn root() -> Command {
        let server = Command::new("server")
            .arg(Arg::new("config").long("config"))
            .arg(Arg::new("kubelet-arg").long("kubelet-arg").action(ArgAction::Append))
            .arg(Arg::new("disable").long("disable").action(ArgAction::Append))
            .arg(Arg::new("quiet").long("quiet").action(ArgAction::SetTrue))
            .arg(Arg::new("secure-port").long("secure-port").help_heading("kube-apiserver"))
            .arg(Arg::new("port").long("port").help_heading("kubelet"))
            .arg(
                Arg::new("kube-scheduler-config")
                    .long("kube-scheduler-config")
                    .help_heading("kube-scheduler"),
            )
            .arg(Arg::new("max-pods").long("max-pods").help_heading("kubelet"));
        Command::new("kubelith").subcommand(server)
    }

    fn expanded(config: &str, arguments: &str) -> Result<String, String> {
        let file = std::env::temp_dir().join(format!("kubelith-flags-{}", config.len()));
        std::fs::write(&file, config).unwrap();
        let line = format!("kubelith server --config {} {arguments}", file.display());
        let all = line.split_whitespace().map(str::to_owned).collect();
        let all = expand(all, &root()).map_err(|error| format!("{error:#}"));
        std::fs::remove_file(&file).ok();
        let place = file.display().to_string();
        all.map(|(all, _)| all.join(" "))
            .map(|it| it.replace(&place, "F"))
            .map_err(|it| it.replace(&place, "F"))
    }

    #[test]
    fn a_file_has_the_flags_names_and_the_command_line_wins() {
        let config = "secure-port: 7000\nquiet: true\ndisable: [dns, proxy]\nkubelet-arg: [port=1, max-pods=9]\n# done\n";
        assert_eq!(
            expanded(config, "--disable=agent").unwrap(),
            "kubelith server --port=1 --max-pods=9 --quiet --secure-port=7000 --config F --disable=agent"
        );
        assert_eq!(
            expanded(config, "--kubelet-arg max-pods=5").unwrap(),
            "kubelith server --disable=dns --disable=proxy --quiet --secure-port=7000 --config F --max-pods=5"
        );
    }

    #[test]
    fn a_part_has_flags_that_begin_with_its_name() {
        let all = expanded("", "--kube-scheduler-arg config=x.yaml").unwrap();
        assert_eq!(all, "kubelith server --config F --kube-scheduler-config=x.yaml");
    }

    #[test]
    fn what_of_a_part_has_no_meaning_in_this_process_is_said() {
        let all = |flags: &[&str]| {
            let flags = flags.iter().map(|it| format!("--kube-controller-manager-arg={it}"));
            let line = ["kubelith".to_owned(), "server".to_owned()].into_iter().chain(flags);
            expand(line.collect(), &crate::Options::command()).map_err(|error| format!("{error:#}"))
        };
        // Those with which upstream's recorded stories were played, and some of a part's own port.
        let flags = [
            "node-monitor-period=500ms",
            "pvclaimbinder-sync-period=2s",
            "terminated_pod_gc_threshold=120",
        ];
        let (arguments, warnings) = all(&flags).unwrap();
        assert_eq!(arguments[2..], ["--terminated-pod-gc-threshold=120"]);
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(
            warnings[0].starts_with(
                "kube-controller-manager: --node-monitor-period has no meaning here: "
            )
        );
        let (_, warnings) =
            all(&["bind-address=0.0.0.0", "cidr-allocator-type=RangeAllocator"]).unwrap();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(all(&["node-monitor-period=soon"]).unwrap_err().contains("time: invalid duration"));
    }

    #[test]
    fn a_program_called_by_a_parts_name_is_that_part() {
        let called = |line: &str| by_name(line.split(' ').map(str::to_owned).collect()).join(" ");
        assert_eq!(called("/bin/kube-scheduler --v=2"), "/bin/kube-scheduler kube-scheduler --v=2");
        assert_eq!(
            called("kube-controller-manager"),
            "kube-controller-manager kube-controller-manager"
        );
        assert_eq!(called("/bin/kubelith server"), "/bin/kubelith server");
    }

    #[test]
    fn what_is_no_flag_is_refused() {
        for (config, arguments, wanted) in [
            ("nope: 1", "", "\"nope\" is no flag"),
            ("- a", "", "must be a mapping"),
            ("quiet: {a: b}", "", "must be text"),
            ("", "--kubelet-arg secure-port=1", "kubelet has no flag --secure-port"),
            ("", "--kube-scheduler-arg", "needs NAME=VALUE"),
        ] {
            let error = expanded(config, arguments).unwrap_err();
            assert!(error.contains(wanted), "{error}");
        }
    }
}
