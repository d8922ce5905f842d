#include "component.h"

#include "address.h"
#include "log.h"

#include <cstring>
#include <mutex>
#include <omniORB4/omniInterceptors.h>
#include <omniORB4/omniIOR.h>
#include <vector>

namespace gridnet_giop {

namespace {

constexpr CORBA::Octet VERSION = 1;

/* Encapsulations that go into references. Never destroyed, as the ORB may outlive this. */
struct Published {
    std::mutex lock;
    std::vector<_CORBA_Unbounded_Sequence_Octet> components;
};

Published &published()
{
    static Published *all = new Published;
    return *all;
}

CORBA::Boolean encode(omni::omniInterceptors::encodeIOR_T::info_T &info)
{
    /* Profiles of IIOP 1.0 have no components. */
    if (info.iiop.version.major == 1 && info.iiop.version.minor == 0)
        return 1;
    std::lock_guard<std::mutex> guard(published().lock);
    for (auto &component : published().components) {
        IOP::TaggedComponent &tagged = omniIOR::newIIOPtaggedComponent(info.iiop.components);
        tagged.tag = COMPONENT_TAG;
        tagged.component_data = component;
    }
    return 1;
}

/* Reads a component. Throws CORBA::MARSHAL when it is too short; null when it says what this version does not understand. */
omni::giopAddress *address_in(const IOP::TaggedComponent &component)
{
    cdrEncapsulationStream data(component.component_data.get_buffer(), component.component_data.length(), 1);
    CORBA::Octet version = data.unmarshalOctet();
    CORBA::String_var host = data.unmarshalRawString();
    CORBA::UShort port;
    port <<= data;
    _CORBA_Unbounded_Sequence_Octet bytes;
    bytes <<= data;
    Place place;
    std::string text = std::string(host).find(':') == std::string::npos ? std::string(host) : "[" + std::string(host) + "]";
    if (version != VERSION || !parse_address((text + ":" + std::to_string(port)).c_str(), place))
        return nullptr;
    std::optional<Origin> known;
    if (bytes.length() == sizeof(gridnet_address)) {
        known.emplace();
        std::memcpy(known->address.bytes, bytes.get_buffer(), sizeof known->address.bytes);
        if (data.checkInputOverrun(1, 1))
            known->is_member = data.unmarshalOctet() != 0;
    } else if (bytes.length() != 0) {
        return nullptr;
    }
    return new Address(place, known);
}

CORBA::Boolean decode(omni::omniInterceptors::decodeIOR_T::info_T &info)
{
    if (!info.has_iiop_body)
        return 1;
    const IOP::MultipleComponentProfile &components = info.iiop.components;
    for (CORBA::ULong i = 0; i < components.length(); i++) {
        if (components[i].tag != COMPONENT_TAG)
            continue;
        omni::giopAddress *address = nullptr;
        try {
            address = address_in(components[i]);
        } catch (const CORBA::SystemException &) {
            /* Said below. */
        }
        if (address == nullptr)
            log_line(1, "a reference has a component of " + std::to_string(components[i].component_data.length()) +
                            " bytes for gridnet that cannot be read: it is not used");
        else
            info.ior.getIORInfo()->addresses().push_back(address);
    }
    return 1;
}

} // namespace

void publish_component(const Place &place, const std::optional<Origin> &origin)
{
    cdrEncapsulationStream data(CORBA::ULong(0), CORBA::Boolean(1));
    data.marshalOctet(VERSION);
    data.marshalRawString(place.host.c_str());
    CORBA::UShort port = place.port;
    port >>= data;
    _CORBA_Unbounded_Sequence_Octet bytes;
    if (origin) {
        bytes.length(sizeof origin->address.bytes);
        std::memcpy(bytes.get_buffer(), origin->address.bytes, sizeof origin->address.bytes);
    }
    bytes >>= data;
    if (origin && origin->is_member)
        data.marshalOctet(*origin->is_member);
    _CORBA_Unbounded_Sequence_Octet component;
    data.setOctetSeq(component);
    std::lock_guard<std::mutex> guard(published().lock);
    published().components.push_back(component);
}

void forget_components()
{
    std::lock_guard<std::mutex> guard(published().lock);
    published().components.clear();
}

void install_component_interceptors()
{
    omniORB::getInterceptors()->encodeIOR.add(encode);
    omniORB::getInterceptors()->decodeIOR.add(decode);
}

void remove_component_interceptors()
{
    omniORB::getInterceptors()->encodeIOR.remove(encode);
    omniORB::getInterceptors()->decodeIOR.remove(decode);
}

} // namespace gridnet_giop
