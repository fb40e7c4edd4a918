kvm -m 512 -hda /srv/xp.img -cdrom /srv/xp.iso -boot d -net nic,model=rtl8139 -net user -soundhw ac97 -localtime -usb -usbdevice tablet -std-vga -k de -redir tcp:3389::3389 -serial pty -no-acpi
