#!/usr/bin/env bash
# Run in Colab's image: execute the chapters of a folder from an empty folder, as a reader does who
# has opened them there, and see that nothing that Colab ships was changed or removed.
#   in_colab.sh NOTEBOOKS
set -euo pipefail
notebooks=$(realpath "$1")
work=$(mktemp -d)
cd "$work"

# What tells a chapter that it is on Colab, whatever starts the kernel here.
startup=${IPYTHONDIR:-$HOME/.ipython}/profile_default/startup
mkdir -p "$startup"
echo "import google.colab" > "$startup/colab.py"

python3 -m pip freeze | sort > before.txt
failed=()
for chapter in "$notebooks"/*.ipynb; do
  echo "::group::$(basename "$chapter")"
  cp "$chapter" .
  jupyter nbconvert --to notebook --execute --stdout "$(basename "$chapter")" > /dev/null ||
    failed+=("$(basename "$chapter")")
  echo "::endgroup::"
done
python3 -m pip freeze | sort > after.txt

if comm -23 before.txt after.txt | grep .; then
  echo "::error::the chapters changed or removed these packages of Colab"
  exit 1
fi
echo "Installed beside them: $(comm -13 before.txt after.txt | tr '\n' ' ')"
if [ ${#failed[@]} -gt 0 ]; then
  echo "::error::failed: ${failed[*]}"
  exit 1
fi
