/* What references say of gridnet: a component of their IIOP profile, which those who do not know it skip.
 *
 * An encapsulation (CORBA 3.3, part 2, 9.3.3) of: octet version, 1; string host; unsigned short port; sequence<octet>, the address of the
 * server's fabric: 64 bytes, or none when it is to be looked up by its name; octet, whether that fabric is in a session, which older
 * libraries neither write nor read. */

#pragma once

#include "place.h"

namespace gridnet_giop {

/* Tag of the component: "GN" and two numbers; not assigned by the OMG. */
constexpr std::uint32_t COMPONENT_TAG = 0x474e0001;

/* References that are made from now on say that the server is there. */
void publish_component(const Place &place, const std::optional<Origin> &origin);

/* Forgets what was published. */
void forget_components();

/* Writes and reads components, from ORB_init until the ORB is destroyed. */
void install_component_interceptors();
void remove_component_interceptors();

} // namespace gridnet_giop
