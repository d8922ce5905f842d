/* Transport rules: which transports a client uses, and a server lets in. */

#pragma once

namespace gridnet_giop {

/* Puts "gridnet" before the other actions of client and server rules that are omniORB's default; rules that somebody has set stay. */
void extend_default_rules();

} // namespace gridnet_giop
