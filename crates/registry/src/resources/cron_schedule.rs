//! Schedules of cron jobs: what is wrong with one. When one is due is the controller's to know.

/// One field of a schedule: its bounds, and names for its numbers from the lowest on.
struct Field {
    low: u32,
    high: u32,
    names: &'static [&'static str],
}

const FIELDS: [Field; 5] = [
    Field { low: 0, high: 59, names: &[] },
    Field { low: 0, high: 23, names: &[] },
    Field { low: 1, high: 31, names: &[] },
    Field {
        low: 1,
        high: 12,
        names: &[
            "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
        ],
    },
    Field { low: 0, high: 6, names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"] },
];

/// What is wrong with a schedule, in the words of the parser that upstream uses.
pub(super) fn problem(schedule: &str) -> Option<String> {
    let mut rest = schedule;
    if rest.starts_with("TZ=") || rest.starts_with("CRON_TZ=") {
        let (zone, after) = rest.split_once(' ').unwrap_or((rest, ""));
        let zone = zone.split_once('=').map_or("", |(_, zone)| zone);
        if jiff::tz::TimeZone::get(zone).is_err() {
            return Some(format!("provided bad location {zone}: unknown time zone {zone}"));
        }
        rest = after.trim();
    }
    if rest.is_empty() {
        return Some("empty spec string".into());
    }
    if rest.starts_with('@') {
        return descriptor(rest);
    }
    let fields: Vec<&str> = rest.split_whitespace().collect();
    if fields.len() != FIELDS.len() {
        return Some(format!(
            "expected exactly {} fields, found {}: [{}]",
            FIELDS.len(),
            fields.len(),
            fields.join(" ")
        ));
    }
    let parts = fields.iter().zip(&FIELDS);
    parts.into_iter().find_map(|(text, field)| {
        text.split(',').filter(|it| !it.is_empty()).find_map(|range| field.range(range).err())
    })
}

fn descriptor(text: &str) -> Option<String> {
    const KNOWN: [&str; 7] =
        ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];
    if let Some(every) = text.strip_prefix("@every ") {
        let problem = apimachinery::duration::Duration::parse(every).err()?;
        return Some(format!("failed to parse duration {text}: {problem}"));
    }
    (!KNOWN.contains(&text)).then(|| format!("unrecognized descriptor: {text}"))
}

impl Field {
    /// Checks `*`, `n`, `n-m`, each with a step or without.
    fn range(&self, text: &str) -> Result<(), String> {
        let (range, mut steps) = {
            let mut parts = text.split('/');
            (parts.next().unwrap_or_default(), parts)
        };
        let step = steps.next();
        let (low, high) = self.bounds(range, step.is_some(), text)?;
        let step = step.map_or(Ok(1), number)?;
        if steps.next().is_some() {
            return Err(format!("too many slashes: {text}"));
        }
        if low < self.low {
            return Err(format!("beginning of range ({low}) below minimum ({}): {text}", self.low));
        }
        if high > self.high {
            return Err(format!("end of range ({high}) above maximum ({}): {text}", self.high));
        }
        if low > high {
            return Err(format!("beginning of range ({low}) beyond end of range ({high}): {text}"));
        }
        if step == 0 {
            return Err(format!("step of range should be a positive number: {text}"));
        }
        Ok(())
    }

    fn bounds(&self, range: &str, stepped: bool, text: &str) -> Result<(u32, u32), String> {
        let ends: Vec<&str> = range.split('-').collect();
        if matches!(ends[0], "*" | "?") {
            return Ok((self.low, self.high));
        }
        let low = self.number(ends[0])?;
        match ends[..] {
            [_] if stepped => Ok((low, self.high)),
            [_] => Ok((low, low)),
            [_, high] => Ok((low, self.number(high)?)),
            _ => Err(format!("too many hyphens: {text}")),
        }
    }

    fn number(&self, text: &str) -> Result<u32, String> {
        let lower = text.to_lowercase();
        match (self.low..).zip(self.names).find(|(_, name)| **name == lower) {
            Some((number, _)) => Ok(number),
            None => number(text),
        }
    }
}

fn number(text: &str) -> Result<u32, String> {
    match text.parse::<i64>() {
        Ok(number) if number < 0 => Err(format!("negative number ({number}) not allowed: {text}")),
        Ok(number) => u32::try_from(number).map_err(|_| format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: value out of range")),
        Err(_) => Err(format!(
            "failed to parse int from {text}: strconv.Atoi: parsing {}: invalid syntax",
            apimachinery::field::quote(text)
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_are_worded_as_upstream_words_them() {
        let check = |schedule: &str, expected: &str| {
            assert_eq!(problem(schedule).unwrap_or_default(), expected, "for {schedule}");
        };
        check("*/5 * * * *", "");
        check("0 0 1-5,10 jan-MAR mon", "");
        check("@hourly", "");
        check("@every 5m", "");
        check("x y", "expected exactly 5 fields, found 2: [x y]");
        check("60 * * * *", "end of range (60) above maximum (59): 60");
        check("* * 0 * *", "beginning of range (0) below minimum (1): 0");
        check("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1");
        check("*/0 * * * *", "step of range should be a positive number: */0");
        check(
            "*z * * * *",
            "failed to parse int from *z: strconv.Atoi: parsing \"*z\": invalid syntax",
        );
        check("@never", "unrecognized descriptor: @never");
    }
}
