//! The options of requests, read from the query and checked as upstream checks them.

use apimachinery::field::Path;
use apimachinery::{FieldErrors, Status, Value};

use crate::exchange::Exchange;
use crate::query::Query;

/// What to do with fields that are unknown or repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

/// The options of a write.
#[derive(Debug, Clone)]
pub(crate) struct WriteOptions {
    pub(crate) dry_run: bool,
    pub(crate) field_validation: FieldValidation,
    pub(crate) field_manager: String,
}

/// Upstream's limit of a field manager's name.
const MAX_FIELD_MANAGER: usize = 128;

impl WriteOptions {
    /// The options of a create, update or patch; `kind` is the kind of options that errors name.
    pub(crate) fn of(exchange: &Exchange, kind: &str) -> Result<Self, Status> {
        let query = &exchange.query;
        let mut errors = FieldErrors::new();
        let dry_run = dry_run(query.all("dryRun"), &mut errors);
        let manager = query.get("fieldManager").unwrap_or_default();
        let at = Path::new("fieldManager");
        if manager.len() > MAX_FIELD_MANAGER {
            errors.too_long(&at, MAX_FIELD_MANAGER);
        }
        for (position, it) in manager.char_indices().filter(|(_, it)| it.is_control()) {
            let code = u32::from(it);
            let why = format!("invalid character U+{code:04X} (at position {position})");
            errors.invalid_text(&at, manager, &why);
        }
        let at = Path::new("fieldValidation");
        let field_validation = match query.get("fieldValidation").unwrap_or_default() {
            "" | "Warn" => FieldValidation::Warn,
            "Ignore" => FieldValidation::Ignore,
            "Strict" => FieldValidation::Strict,
            other => {
                errors.not_supported(&at, &Value::from(other), ["", "Ignore", "Strict", "Warn"]);
                FieldValidation::Warn
            }
        };
        refuse(kind, &errors)?;
        Ok(Self { dry_run, field_validation, field_manager: exchange.field_manager() })
    }
}

/// Whether `dryRun` asks for nothing to be stored.
pub(crate) fn dry_run<'q>(values: impl Iterator<Item = &'q str>, errors: &mut FieldErrors) -> bool {
    let values: Vec<&str> = values.collect();
    for value in &values {
        if *value != "All" {
            errors.not_supported(&Path::new("dryRun"), &list(&values), ["All"]);
            break;
        }
    }
    !values.is_empty()
}

fn list(values: &[&str]) -> Value {
    values.iter().copied().collect()
}

/// 422 about options, where something is wrong.
pub(crate) fn refuse(kind: &str, errors: &FieldErrors) -> Result<(), Status> {
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid("meta.k8s.io", kind, "", errors)) }
}

/// Which state a list is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ListAt {
    /// The newest.
    Latest,
    /// Whatever is at hand.
    Any,
    /// Not older than this.
    NotOlderThan(u64),
    /// Exactly this.
    Exactly(u64),
}

/// The options of a list or watch.
#[derive(Debug, Clone)]
pub(crate) struct ListOptions {
    pub(crate) at: ListAt,
    pub(crate) limit: usize,
    pub(crate) continue_token: String,
    pub(crate) bookmarks: bool,
    pub(crate) send_initial_events: Option<bool>,
    /// 0 where the server is to choose; what is negative is over at once.
    pub(crate) timeout_seconds: i64,
    pub(crate) resource_version: String,
}

impl ListOptions {
    pub(crate) fn of(query: &Query, watch: bool) -> Result<Self, Status> {
        let limit = given_number(query, "limit")?.unwrap_or_default();
        let timeout = given_number(query, "timeoutSeconds")?;
        let resource_version = query.get("resourceVersion").unwrap_or_default();
        let matching = query.get("resourceVersionMatch").unwrap_or_default();
        let continue_token = query.get("continue").unwrap_or_default();
        let send_initial_events = query.given_flag("sendInitialEvents");
        let mut errors = FieldErrors::new();
        check_match(
            resource_version,
            matching,
            continue_token,
            send_initial_events,
            watch,
            &mut errors,
        );
        refuse("ListOptions", &errors)?;
        let at =
            if watch { ListAt::Latest } else { list_at(resource_version, matching, limit > 0)? };
        Ok(Self {
            at,
            limit: usize::try_from(limit).unwrap_or_default(),
            continue_token: continue_token.into(),
            bookmarks: query.flag("allowWatchBookmarks"),
            send_initial_events,
            timeout_seconds: timeout.unwrap_or_default(),
            resource_version: resource_version.into(),
        })
    }

    /// Whether a watch from this version begins with what there is.
    pub(crate) fn wants_initial_events(&self, version: u64) -> bool {
        // Without a version, or at 0, a watch has always begun so.
        self.send_initial_events.unwrap_or(version == 0)
    }
}

/// A number of the query, as Go reads one. What is given and empty is no number.
///
/// # Errors
/// 400 for anything else.
pub(crate) fn given_number(query: &Query, name: &str) -> Result<Option<i64>, Status> {
    let Some(text) = query.get(name) else { return Ok(None) };
    let bad = |why: &str| {
        let text = apimachinery::field::quote(text);
        Status::bad_request(format!("strconv.ParseInt: parsing {text}: {why}"))
    };
    match text.parse::<i64>() {
        Ok(number) => Ok(Some(number)),
        Err(error)
            if matches!(
                error.kind(),
                std::num::IntErrorKind::PosOverflow | std::num::IntErrorKind::NegOverflow
            ) =>
        {
            Err(bad("value out of range"))
        }
        Err(_) => Err(bad("invalid syntax")),
    }
}

/// The version that a GET or a watch asks for, refused as upstream's storage does: 500 without a reason.
pub(crate) fn version_of_read(text: &str) -> Result<u64, Status> {
    if text.is_empty() {
        return Ok(0);
    }
    parse_version(text).map_err(|why| Status { code: 500, message: why, ..Status::default() })
}

/// Reads a resource version.
fn parse_version(text: &str) -> Result<u64, String> {
    text.parse::<u64>().map_err(|error| {
        let why = if *error.kind() == std::num::IntErrorKind::PosOverflow {
            "value out of range"
        } else {
            "invalid syntax"
        };
        let text = apimachinery::field::quote(text);
        format!("resourceVersion: Invalid value: {text}: strconv.ParseUint: parsing {text}: {why}")
    })
}

fn list_at(version: &str, matching: &str, limited: bool) -> Result<ListAt, Status> {
    if version.is_empty() {
        return Ok(ListAt::Latest);
    }
    let revision = parse_version(version)
        .map_err(|why| Status::bad_request(format!("invalid resource version: {why}")))?;
    Ok(match (revision, matching) {
        (revision, "Exact") => ListAt::Exactly(revision),
        (0, _) => ListAt::Any,
        // Without a match rule, a limited list at a version was always exact.
        (revision, "") if limited => ListAt::Exactly(revision),
        (revision, _) => ListAt::NotOlderThan(revision),
    })
}

fn check_match(
    version: &str,
    matching: &str,
    token: &str,
    initial: Option<bool>,
    watch: bool,
    errors: &mut FieldErrors,
) {
    let at = Path::new("resourceVersionMatch");
    let initial_at = Path::new("sendInitialEvents");
    if watch {
        match (initial, matching) {
            (Some(_), "NotOlderThan") | (None, "") => {}
            (Some(_), "") => {
                errors.forbidden(
                    &at,
                    "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
                );
            }
            (Some(_), other) => {
                errors.forbidden(
                    &at,
                    "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
                );
                errors.not_supported(&at, &Value::from(other), ["NotOlderThan"]);
            }
            (None, _) => errors.forbidden(
                &at,
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            ),
        }
        return;
    }
    if initial.is_some() {
        errors.forbidden(&initial_at, "sendInitialEvents is forbidden for list");
    }
    if matching.is_empty() {
        return;
    }
    if version.is_empty() {
        errors
            .forbidden(&at, "resourceVersionMatch is forbidden unless resourceVersion is provided");
    }
    if !token.is_empty() {
        errors.forbidden(&at, "resourceVersionMatch is forbidden when continue is provided");
    }
    if !matches!(matching, "Exact" | "NotOlderThan") {
        errors.not_supported(&at, &Value::from(matching), ["Exact", "NotOlderThan", ""]);
    }
    if matching == "Exact" && version == "0" {
        errors.forbidden(
            &at,
            "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
        );
    }
}
