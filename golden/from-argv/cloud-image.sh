qemu-system-x86_64 -m 1024 -machine accel=kvm:tcg -hda jammy.img -snapshot -nographic \
  -device e1000,netdev=net0 -netdev user,id=net0,net=10.9.0.0/24,dns=10.9.0.3 \
  -smbios type=1,serial=ds='nocloud-net;s=http://10.0.2.2:8000/' -fw_cfg name=opt/x,file=/srv/x \
  -object rng-random,id=rng0,filename=/dev/urandom -device virtio-rng-pci,rng=rng0
