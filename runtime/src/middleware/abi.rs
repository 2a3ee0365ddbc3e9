//! The functions of `http_handler`. One that is asked for what cannot be ends the guest, as the ABI has it.

use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Method, StatusCode, Version};
use wasmtime::{Caller, Linker, Result, bail};

use super::conversation::{BUFFER_RESPONSE, Conversation, Message, Part};
use super::{ABI, MEMORY};
use crate::host::Host;

/// Levels of the log from which lines are written: -1 is debug, 0 info, 1 a warning, 2 an error, 3 is off.
const LOGGED: std::ops::RangeInclusive<u32> = 0..=2;

type Guest<'a> = Caller<'a, Host>;

pub(super) fn add_to_linker(linker: &mut Linker<Host>) -> Result<()> {
    linker
        .func_wrap(
            ABI,
            "enable_features",
            |mut guest: Guest<'_>, features: u32| Ok(conversation(&mut guest)?.enable(features)),
        )?
        .func_wrap(
            ABI,
            "get_config",
            |mut guest: Guest<'_>, at: u32, limit: u32| {
                let given = std::sync::Arc::clone(&conversation(&mut guest)?.given);
                put(&mut guest, at, limit, &given.config)
            },
        )?
        .func_wrap(ABI, "log_enabled", |level: u32| {
            u32::from(LOGGED.contains(&level))
        })?
        .func_wrap_async(
            ABI,
            "log",
            |guest: Guest<'_>, (level, at, length): (u32, u32, u32)| {
                Box::new(log(guest, level, at, length))
            },
        )?;
    request(linker)?;
    headers(linker)?;
    linker
        .func_wrap_async(
            ABI,
            "read_body",
            |guest: Guest<'_>, (kind, at, limit): (u32, u32, u32)| {
                Box::new(read_body(guest, kind, at, limit))
            },
        )?
        .func_wrap(
            ABI,
            "write_body",
            |mut guest: Guest<'_>, kind: u32, at: u32, length: u32| {
                let bytes = take(&mut guest, at, length)?;
                message(&mut guest)?.writable(kind)?.write(&bytes)
            },
        )?
        .func_wrap(ABI, "get_status_code", |mut guest: Guest<'_>| {
            let message = message(&mut guest)?;
            message.before_next_or(BUFFER_RESPONSE, "get the status code")?;
            Ok(u32::from(message.status.as_u16()))
        })?
        .func_wrap(ABI, "set_status_code", |mut guest: Guest<'_>, code: u32| {
            let message = message(&mut guest)?;
            message.before_next_or(BUFFER_RESPONSE, "set the status code")?;
            // Below are those that are no answer yet.
            let code = u16::try_from(code)
                .ok()
                .filter(|code| (200..1000).contains(code));
            let status = code.and_then(|code| StatusCode::from_u16(code).ok());
            message.status =
                status.ok_or_else(|| wasmtime::Error::msg("no status code of an answer"))?;
            Ok(())
        })?;
    Ok(())
}

/// What the first line of a request says, and who sent it.
fn request(linker: &mut Linker<Host>) -> Result<()> {
    linker
        .func_wrap(
            ABI,
            "get_method",
            |mut guest: Guest<'_>, at: u32, limit: u32| {
                let method = message(&mut guest)?.method.to_string();
                put(&mut guest, at, limit, method.as_bytes())
            },
        )?
        .func_wrap(
            ABI,
            "set_method",
            |mut guest: Guest<'_>, at: u32, length: u32| {
                let method = take(&mut guest, at, length)?;
                let message = message(&mut guest)?;
                message.before_next("set the method")?;
                message.method = Method::from_bytes(&method)?;
                Ok(())
            },
        )?
        .func_wrap(
            ABI,
            "get_uri",
            |mut guest: Guest<'_>, at: u32, limit: u32| {
                let uri = message(&mut guest)?.uri.to_string();
                put(&mut guest, at, limit, uri.as_bytes())
            },
        )?
        .func_wrap(
            ABI,
            "set_uri",
            |mut guest: Guest<'_>, at: u32, length: u32| {
                let uri = take(&mut guest, at, length)?;
                let message = message(&mut guest)?;
                message.before_next("set the URI")?;
                message.uri = if uri.is_empty() {
                    PathAndQuery::from_static("/")
                } else {
                    PathAndQuery::try_from(&uri[..])?
                };
                Ok(())
            },
        )?
        .func_wrap(
            ABI,
            "get_protocol_version",
            |mut guest: Guest<'_>, at: u32, limit: u32| {
                let version = match message(&mut guest)?.version {
                    Version::HTTP_10 => "HTTP/1.0",
                    Version::HTTP_2 => "HTTP/2.0",
                    _ => "HTTP/1.1",
                };
                put(&mut guest, at, limit, version.as_bytes())
            },
        )?
        .func_wrap(
            ABI,
            "get_source_addr",
            |mut guest: Guest<'_>, at: u32, limit: u32| {
                let client = message(&mut guest)?.client;
                let client = client.map(|client| client.to_string()).unwrap_or_default();
                put(&mut guest, at, limit, client.as_bytes())
            },
        )?;
    Ok(())
}

fn headers(linker: &mut Linker<Host>) -> Result<()> {
    linker
        .func_wrap_async(
            ABI,
            "get_header_names",
            |guest: Guest<'_>, (kind, at, limit): (u32, u32, u32)| {
                Box::new(header_names(guest, kind, at, limit))
            },
        )?
        .func_wrap_async(
            ABI,
            "get_header_values",
            |guest: Guest<'_>, (kind, name, length, at, limit): (u32, u32, u32, u32, u32)| {
                Box::new(header_values(guest, kind, (name, length), (at, limit)))
            },
        )?
        .func_wrap_async(
            ABI,
            "set_header_value",
            |guest: Guest<'_>, (kind, name, length, value, size): (u32, u32, u32, u32, u32)| {
                Box::new(put_header(
                    guest,
                    kind,
                    (name, length),
                    (value, size),
                    false,
                ))
            },
        )?
        .func_wrap_async(
            ABI,
            "add_header_value",
            |guest: Guest<'_>, (kind, name, length, value, size): (u32, u32, u32, u32, u32)| {
                Box::new(put_header(guest, kind, (name, length), (value, size), true))
            },
        )?
        .func_wrap_async(
            ABI,
            "remove_header",
            |guest: Guest<'_>, (kind, name, length): (u32, u32, u32)| {
                Box::new(remove_header(guest, kind, name, length))
            },
        )?;
    Ok(())
}

async fn log(mut guest: Guest<'_>, level: u32, at: u32, length: u32) -> Result<()> {
    if LOGGED.contains(&level) {
        let mut line = take(&mut guest, at, length)?;
        line.push(b'\n');
        let stderr = guest.data().stderr.clone();
        stderr.say(&line).await;
    }
    Ok(())
}

async fn read_body(mut guest: Guest<'_>, kind: u32, at: u32, limit: u32) -> Result<u64> {
    if limit == 0 {
        bail!("a body is not read into a buffer of no bytes");
    }
    let (body, kept) = message(&mut guest)?.readable(kind)?;
    let (bytes, over) = body.read(limit as usize, kept).await?;
    let length = put(&mut guest, at, limit, &bytes)?;
    Ok(u64::from(over) << 32 | u64::from(length))
}

async fn header_names(mut guest: Guest<'_>, kind: u32, at: u32, limit: u32) -> Result<u64> {
    let part = Part::new(kind)?;
    let headers = message(&mut guest)?.shown(part).await?;
    let names = headers.into_iter().flat_map(|headers| headers.keys());
    let list: Vec<Vec<u8>> = names.map(|name| name.as_str().into()).collect();
    put_list(&mut guest, at, limit, &list)
}

async fn header_values(
    mut guest: Guest<'_>,
    kind: u32,
    (name, length): (u32, u32),
    (at, limit): (u32, u32),
) -> Result<u64> {
    let part = Part::new(kind)?;
    let name = header_name(&mut guest, name, length)?;
    let headers = message(&mut guest)?.shown(part).await?;
    let values = headers
        .into_iter()
        .flat_map(|headers| headers.get_all(&name));
    let list: Vec<Vec<u8>> = values.map(|value| value.as_bytes().into()).collect();
    put_list(&mut guest, at, limit, &list)
}

async fn put_header(
    mut guest: Guest<'_>,
    kind: u32,
    (name, length): (u32, u32),
    (value, size): (u32, u32),
    add: bool,
) -> Result<()> {
    let part = Part::new(kind)?;
    let name = header_name(&mut guest, name, length)?;
    let value = HeaderValue::from_bytes(&take(&mut guest, value, size)?)?;
    let headers = message(&mut guest)?.changed(part).await?;
    if add {
        headers.try_append(name, value)?;
    } else {
        headers.try_insert(name, value)?;
    }
    Ok(())
}

async fn remove_header(mut guest: Guest<'_>, kind: u32, name: u32, length: u32) -> Result<()> {
    let part = Part::new(kind)?;
    let name = header_name(&mut guest, name, length)?;
    message(&mut guest)?.changed(part).await?.remove(name);
    Ok(())
}

fn header_name(guest: &mut Guest<'_>, at: u32, length: u32) -> Result<HeaderName> {
    Ok(HeaderName::from_bytes(&take(guest, at, length)?)?)
}

fn conversation<'a>(guest: &'a mut Guest<'_>) -> Result<&'a mut Conversation> {
    let conversation = guest.data_mut().middleware.as_deref_mut();
    conversation.ok_or_else(|| wasmtime::Error::msg("it is no middleware"))
}

fn message<'a>(guest: &'a mut Guest<'_>) -> Result<&'a mut Message> {
    conversation(guest)?.message()
}

fn memory<'a>(guest: &'a mut Guest<'_>) -> Result<&'a mut [u8]> {
    let memory = guest
        .get_export(MEMORY)
        .and_then(wasmtime::Extern::into_memory);
    let memory = memory.ok_or_else(|| wasmtime::Error::msg("it exports no memory"))?;
    Ok(memory.data_mut(guest))
}

/// A copy of what the guest has there.
fn take(guest: &mut Guest<'_>, at: u32, length: u32) -> Result<Vec<u8>> {
    let (at, length) = (at as usize, length as usize);
    let bytes = memory(guest)?
        .get(at..)
        .and_then(|bytes| bytes.get(..length));
    let bytes = bytes.ok_or_else(|| wasmtime::Error::msg("out of the bounds of its memory"))?;
    Ok(bytes.to_vec())
}

/// Gives the guest `bytes`, unless they are more than `limit`. How many they are.
fn put(guest: &mut Guest<'_>, at: u32, limit: u32, bytes: &[u8]) -> Result<u32> {
    let length = u32::try_from(bytes.len())?;
    if length <= limit && length > 0 {
        let place = memory(guest)?.get_mut(at as usize..);
        let place = place.and_then(|place| place.get_mut(..bytes.len()));
        let place = place.ok_or_else(|| wasmtime::Error::msg("out of the bounds of its memory"))?;
        place.copy_from_slice(bytes);
    }
    Ok(length)
}

/// The same of a list, with a NUL after each. How many it has, above, and how long it is.
fn put_list(guest: &mut Guest<'_>, at: u32, limit: u32, list: &[Vec<u8>]) -> Result<u64> {
    let count = list.len() as u64;
    let mut bytes = Vec::new();
    for item in list {
        bytes.extend_from_slice(item);
        bytes.push(0);
    }
    let length = put(guest, at, limit, &bytes)?;
    Ok(count << 32 | u64::from(length))
}
