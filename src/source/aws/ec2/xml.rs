//! What EC2 says, in XML.
//!
//! It keeps nothing but ids, addresses and subnets. Invariant: a document that was cut, or is none, is an error, and never a
//! shorter answer.

use std::net::IpAddr;

use aws_smithy_xml::decode::{Document, ScopedDecoder, XmlDecodeError, try_data};

use crate::model::Subnet;

/// One page of instances that have an address.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Page {
    pub instances: Vec<Instance>,
    pub next_token: Option<String>,
}

/// One instance.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Instance {
    pub id: String,
    pub address: IpAddr,
    pub subnet: Option<Subnet>,
}

type Read<T> = Result<T, XmlDecodeError>;

/// Reads an answer to DescribeInstances.
pub(super) fn page(bytes: &[u8]) -> Read<Page> {
    let mut document = whole(bytes)?;
    let mut root = document.root_element()?;
    if !root.start_el().matches("DescribeInstancesResponse") {
        return Err(XmlDecodeError::custom("it is no answer to DescribeInstances"));
    }
    let mut page = Page::default();
    while let Some(mut member) = root.next_tag() {
        if member.start_el().matches("nextToken") {
            page.next_token = Some(try_data(&mut member)?.into_owned());
        } else if member.start_el().matches("reservationSet") {
            each(&mut member, &["item", "instancesSet", "item"], &mut |item| {
                page.instances.extend(instance(item)?);
                Ok(())
            })?;
        }
    }
    Ok(page)
}

/// The code and message of a refusal.
pub(super) fn refusal(bytes: &[u8]) -> Option<(String, String)> {
    let mut document = whole(bytes).ok()?;
    let mut root = document.root_element().ok()?;
    let (mut code, mut message) = (None, String::new());
    let read = each(&mut root, &["Errors", "Error"], &mut |error| {
        while let Some(mut member) = error.next_tag() {
            if member.start_el().matches("Code") {
                code = Some(try_data(&mut member)?.into_owned());
            } else if member.start_el().matches("Message") {
                message = try_data(&mut member)?.into_owned();
            }
        }
        Ok(())
    });
    read.ok()?;
    Some((code?, message))
}

/// An instance with its private address; IPv6 only where there is no IPv4.
fn instance(item: &mut ScopedDecoder<'_, '_>) -> Read<Option<Instance>> {
    let (mut id, mut four, mut six, mut subnet) = (None, None, None, None);
    while let Some(mut member) = item.next_tag() {
        if member.start_el().matches("instanceId") {
            id = Some(try_data(&mut member)?.into_owned());
        } else if member.start_el().matches("privateIpAddress") {
            four = address(&mut member)?;
        } else if member.start_el().matches("subnetId") {
            subnet = Subnet::read(try_data(&mut member)?.trim());
        } else if member.start_el().matches("ipv6Address") {
            six = address(&mut member)?.or(six);
        } else if member.start_el().matches("networkInterfaceSet") {
            each(&mut member, &["item", "ipv6AddressesSet", "item", "ipv6Address"], &mut |found| {
                six = six.or(address(found)?);
                Ok(())
            })?;
        }
    }
    let id = id.ok_or_else(|| XmlDecodeError::custom("the answer lacks `instanceId`"))?;
    Ok(four.or(six).map(|address| Instance { id, address, subnet }))
}

fn address(element: &mut ScopedDecoder<'_, '_>) -> Read<Option<IpAddr>> {
    Ok(try_data(element)?.trim().parse().ok())
}

/// Hands each element at `path` below `scope` to `take`.
fn each(
    scope: &mut ScopedDecoder<'_, '_>,
    path: &[&str],
    take: &mut dyn FnMut(&mut ScopedDecoder<'_, '_>) -> Read<()>,
) -> Read<()> {
    let Some((first, rest)) = path.split_first() else { return take(scope) };
    while let Some(mut member) = scope.next_tag() {
        if member.start_el().matches(first) {
            each(&mut member, rest, take)?;
        }
    }
    Ok(())
}

/// The document, if every element in it ends: the decoder takes an end of the text for the end of whatever is open.
fn whole(bytes: &[u8]) -> Read<Document<'_>> {
    let (mut depth, mut is_empty) = (0, true);
    for token in Document::try_from(bytes)? {
        (depth, is_empty) = (token?.1, false);
    }
    if depth > 0 || is_empty {
        return Err(XmlDecodeError::custom("the document does not end"));
    }
    Document::try_from(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance_of(id: &str, rest: &str) -> String {
        format!(
            "<item><reservationId>r-1</reservationId><groupSet/><instancesSet><item><instanceId>{id}</instanceId>\
             <imageId>ami-1</imageId>{rest}</item></instancesSet></item>"
        )
    }

    fn answer(reservations: &str) -> String {
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<DescribeInstancesResponse \
             xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\">\n<requestId>8f7724cf</requestId>\n\
             <reservationSet>{reservations}</reservationSet></DescribeInstancesResponse>\n"
        )
    }

    #[test]
    fn instances_have_their_private_address_or_else_one_of_ipv6() {
        let six = |address: &str| {
            format!(
                "<networkInterfaceSet><item><networkInterfaceId>eni-1</networkInterfaceId><ipv6AddressesSet><item>\
                 <ipv6Address>{address}</ipv6Address></item><item><ipv6Address>fd00::9</ipv6Address></item>\
                 </ipv6AddressesSet><privateIpAddress>10.9.9.9</privateIpAddress></item></networkInterfaceSet>"
            )
        };
        let all = [
            instance_of(
                "i-1",
                "<privateIpAddress>10.0.0.1</privateIpAddress><subnetId>subnet-1a2b3c4d</subnetId>",
            ),
            instance_of("i-2", &six("fd00::2")),
            instance_of("i-3", &format!("<privateIpAddress>10.0.0.3</privateIpAddress>{}", six("fd00::3"))),
            instance_of("i-4", &format!("{}<ipv6Address>fd00::4</ipv6Address>", six("fd00::5"))),
            instance_of("i-5", "<privateIpAddress/>"), // it is terminated
        ];
        let page = page(answer(&all.concat()).as_bytes()).expect("an answer");
        let expected = [("i-1", "10.0.0.1"), ("i-2", "fd00::2"), ("i-3", "10.0.0.3"), ("i-4", "fd00::4")];
        let expected = expected.map(|(id, address)| {
            let subnet = Subnet::read("subnet-1a2b3c4d").filter(|_| id == "i-1");
            Instance { id: id.to_owned(), address: address.parse().expect("an address"), subnet }
        });
        assert_eq!(page, Page { instances: expected.into(), next_token: None });
    }

    #[test]
    fn the_next_page_is_told() {
        let text = answer("").replace(
            "</DescribeInstancesResponse>",
            "<nextToken>a&amp;b</nextToken></DescribeInstancesResponse>",
        );
        assert_eq!(page(text.as_bytes()).expect("an answer").next_token.as_deref(), Some("a&b"));
    }

    #[test]
    fn whatever_was_cut_is_no_answer() {
        let text = answer(&instance_of("i-1", "<privateIpAddress>10.0.0.1</privateIpAddress>"));
        let end = text.trim_end().len();
        for cut in 0..end {
            assert!(page(&text.as_bytes()[..cut]).is_err(), "{}", &text[..cut]);
        }
        assert!(page(text.as_bytes()).is_ok());
        for odd in ["<html>upstream is down</html", "</a></b>", "<a/></b>", "{}", "\u{0}", "<Response/>"] {
            assert!(page(odd.as_bytes()).is_err(), "{odd}");
        }
        let nameless = answer(&instance_of("i-1", "")).replace("instanceId", "id");
        assert!(page(nameless.as_bytes()).is_err());
    }

    #[test]
    fn refusals_have_a_code_and_a_message() {
        let text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Response><Errors><Error><Code>UnauthorizedOperation\
                    </Code><Message>You aren&apos;t authorized.</Message></Error></Errors><RequestID>1</RequestID>\
                    </Response>";
        let told = ("UnauthorizedOperation".to_owned(), "You aren't authorized.".to_owned());
        assert_eq!(refusal(text.as_bytes()), Some(told));
        for none in ["upstream is down", "<Response><Errors/></Response>", "<Response>"] {
            assert_eq!(refusal(none.as_bytes()), None, "{none}");
        }
    }
}
