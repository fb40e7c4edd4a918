"""What emulators and host can do, as libvirt tells its clients: ``virsh capabilities`` and ``virsh domcapabilities``.

``guests.capabilities`` makes the former, ``domain.domain_capabilities`` the latter; ``layout.text`` writes them.
"""
