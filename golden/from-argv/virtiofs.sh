qemu-system-x86_64 -M q35,accel=kvm,memory-backend=mem -m 2G -object memory-backend-memfd,id=mem,size=2G,share=on \
 -chardev socket,id=char0,path=/run/vfs.sock -device vhost-user-fs-pci,queue-size=1024,chardev=char0,tag=myfs \
 -drive file=nbd://127.0.0.1:10809/export1,format=raw,if=virtio -device qemu-xhci -device usb-storage,drive=stick \
 -drive if=none,id=stick,format=raw,file=/srv/stick.img -device virtio-vga-gl -display gtk,gl=on -device intel-hda -device hda-micro \
 -device i6300esb -watchdog-action reset -device nvme,serial=deadbeef,drive=nvm -drive file=/srv/nvm.img,if=none,id=nvm,format=raw
