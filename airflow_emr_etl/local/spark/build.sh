#!/usr/bin/env bash
# Build object-folder-filesystem.jar from its source, against the jars of the PySpark that is installed.
# Needs a JDK of 17 or later (javac, jar). Only who changes the source runs this: the jar ships built.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
python="${PYTHON:-python3}"
jars="$("$python" -c 'import pathlib, pyspark; print(pathlib.Path(pyspark.__file__).parent / "jars")')"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
javac --release 17 -Xlint:all,-processing,-classfile -proc:none -cp "$jars/*" -d "$work" "$here/ObjectFolderFileSystem.java"
mkdir -p "$work/META-INF"
sha256sum < "$here/ObjectFolderFileSystem.java" | cut -d' ' -f1 > "$work/META-INF/source.sha256"
# One date for every entry, so that the same source gives the same bytes.
jar --create --no-manifest --date=2026-01-01T00:00:00Z --file "$here/object-folder-filesystem.jar" -C "$work" .
echo "$here/object-folder-filesystem.jar"
