# Windows with Hyper-V enlightenments, a virtio driver disk and a local clock
qemu-system-x86_64 -name "win 10",process=win10 -machine q35,accel=kvm,usb=off -m 8192 \
 -cpu host,kvm=off,hv_relaxed,hv_spinlocks=0x1fff,hv_vapic,hv_time,hv_vendor_id=whatever \
 -smp 8,sockets=1,cores=4,threads=2 -rtc base=localtime,driftfix=slew -global kvm-pit.lost_tick_policy=delay \
 -drive if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE.fd \
 -drive if=pflash,format=raw,file=/srv/win/OVMF_VARS.fd \
 -device virtio-scsi-pci,id=scsi0 -drive id=root,if=none,file=/srv/win/c.img,format=raw,cache=none,aio=native,discard=unmap \
 -device scsi-hd,drive=root,bus=scsi0.0,bootindex=1 \
 -drive file=/srv/iso/virtio-win.iso,media=cdrom,index=1 -drive file=/srv/iso/win10.iso,media=cdrom,index=2 \
 -netdev tap,id=n0,ifname=tap0,script=no,downscript=no,vhost=on -device virtio-net-pci,netdev=n0,mac=52:54:00:aa:bb:01 \
 -vga qxl -spice port=5930,disable-ticketing=on -device virtio-serial-pci \
 -chardev spicevmc,id=vdagent,name=vdagent -device virtserialport,chardev=vdagent,name=com.redhat.spice.0 \
 -audiodev spice,id=snd0 -device ich9-intel-hda -device hda-duplex,audiodev=snd0 -monitor stdio -daemonize
